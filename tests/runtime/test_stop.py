"""Stopping: signals set a flag; a process that was killed, terminated and interrupted still ends with the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from layerline import api
from layerline.errors import Stopped
from layerline.events import EpochDone, Event, Minibatch, Saved
from layerline.run import Run
from layerline.runtime.stop import Stop, Terminated, ending_on_sigterm, on_signals

RUN = Run.from_dict(
    {
        "dataset": "digits",
        "network": {"kind": "mlp", "widths": [32, 32]},
        "labels": {"strength": 3.0, "position": "append"},
        "negatives": {"kind": "adaptive"},
        "order": "chapters",
        "epochs": 3,
        "chapters": 3,
        "batch_size": 64,
        "precision": "32-true",
        "threads": 1,
        "device": "cpu",
        "checkpoint_seconds": 0.0,
    }
)

CHILD = """
import sys
from layerline import api
from layerline.errors import Stopped
from layerline.events import Saved
from layerline.run import Run
from layerline.runtime.stop import on_signals

def hear(event):
    if isinstance(event, Saved):  # after every minibatch
        print(event.path, flush=True)
        sys.stdin.readline()

verb, where = sys.argv[1:]
with on_signals() as stop:
    try:
        if verb == "train":
            api.train(Run.from_toml(where + ".toml"), out_dir=where, listener=hear, stop=stop)
        else:
            api.resume(where, listener=hear, stop=stop)
    except Stopped as stopped:
        sys.exit(stopped.exit_status)
"""


def interrupt(verb: str, where: Path, number: signal.Signals, after: int) -> int:
    """Start a process, send the signal once it has saved `after` times; its exit status.

    After each of these it waits to be told to go on, so it is never ahead.
    """
    words = [sys.executable, "-c", CHILD, verb, str(where)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin
        assert child.stdout
        for left in reversed(range(after)):
            assert child.stdout.readline(), "the run ended before it was interrupted"
            if left:
                child.stdin.write("\n")
                child.stdin.flush()
        child.send_signal(number)
        child.communicate(timeout=60)  # closes its input, so it waits no more
    return child.returncode


def test_killed_terminated_interrupted_and_resumed(tmp_path: Path) -> None:
    where = tmp_path / "run"
    where.with_name("run.toml").write_text(RUN.to_toml())
    expected = api.train(RUN)

    def done() -> int:
        facts = json.loads((where / "checkpoints" / "latest.json").read_text())
        return int(facts["file"].partition(".")[0])

    assert interrupt("train", where, signal.SIGKILL, after=15) == -signal.SIGKILL
    killed = done()
    assert killed > 0
    assert interrupt("resume", where, signal.SIGTERM, after=30) == 75
    terminated = done()
    assert killed < terminated
    assert interrupt("resume", where, signal.SIGINT, after=40) == 130
    assert terminated < done()
    assert not (where / "result.json").exists()

    result = api.resume(where)
    for name in ("weights_sha256", "test_accuracy", "readouts", "parameters"):
        assert result.values[name] == expected.values[name]
    assert result.rows == expected.rows
    assert json.loads((where / "result.json").read_text())["weights_sha256"] == expected.values["weights_sha256"]
    assert [p.suffix for p in sorted((where / "checkpoints").iterdir())] == [".safetensors", ".json"]


def test_the_final_evaluation_can_be_stopped_and_done_again(tmp_path: Path) -> None:
    """It used to go on to its end, which on a slow machine looks like a program that ignores Ctrl-C."""
    run = RUN.replace(epochs=1, chapters=1, checkpoint_seconds=1e9)
    where = tmp_path / "run"
    stop = Stop()

    def hear(event: Event) -> None:
        if isinstance(event, Saved):  # the only time: after the last minibatch
            stop.exit_status = 130

    with pytest.raises(Stopped, match="training is finished; its evaluation was stopped") as stopped:
        api.train(run, out_dir=where, listener=hear, stop=stop)
    assert stopped.value.exit_status == 130
    assert stopped.value.hint == f"go on with: layerline resume {where}"
    assert not (where / "result.json").exists()
    assert not (where / "model").exists()

    heard: list[Event] = []
    result = api.resume(where, listener=heard.append)
    assert not any(isinstance(event, Minibatch | EpochDone) for event in heard), "nothing is trained again"
    expected = api.train(run)
    for name in ("weights_sha256", "test_accuracy", "readouts"):
        assert result.values[name] == expected.values[name]
    assert (where / "result.json").exists()


def test_signals_set_the_flag() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with on_signals() as stop:
        assert stop.exit_status is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.exit_status == 75
    with on_signals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.exit_status == 130
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_sigterm_with_nothing_to_save_raises() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with ending_on_sigterm():
        with on_signals() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.exit_status == 75, "in a training it sets the flag"
        with pytest.raises(Terminated):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
