"""Our launcher at bad moments: signals before there are workers, between two starts and after the end."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from layerline import api
from layerline.cli.main import main
from layerline.errors import Stopped
from layerline.files import alone_in
from layerline.reporting.run_folder import RunFolder
from layerline.runtime.launch import launch
from layerline.runtime.stop import Stop
from runtime.members_by_hand import SMALL
from runtime.test_processes import described, end, start, workers

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def test_signal_handlers_are_given_back(tmp_path: Path) -> None:
    """The elastic launcher keeps its own, whose exception nobody expected when the workers had ended."""
    run, _ = described(tmp_path, {"schedule": {"kind": "all-layers"}, "nodes": 2, "epochs": 2})
    before = [signal.getsignal(number) for number in NUMBERS]
    api.train(run, out_dir=tmp_path / "run", processes=2)
    assert [signal.getsignal(number) for number in NUMBERS] == before


@pytest.mark.parametrize("status", [130, 75])
def test_stopped_before_anything_is_started(status: int, tmp_path: Path) -> None:
    with pytest.raises(Stopped, match="training was stopped") as stopped:
        launch(["no", "such", "command"], 2, tmp_path, restarts=3, stop=Stop(exit_status=status))
    assert stopped.value.exit_status == status
    assert stopped.value.hint == f"go on with: layerline resume {tmp_path}"


def until_made(path: Path) -> None:
    until = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.002)


@pytest.mark.parametrize(
    ("number", "status", "later"), [(signal.SIGINT, 130, 0.0), (signal.SIGTERM, 75, 0.3), (signal.SIGINT, 130, 1.0)]
)
def test_stopped_while_the_processes_are_set_up(number: int, status: int, later: float, tmp_path: Path) -> None:
    """A Ctrl-C before the workers were started was lost; one while they imported PyTorch was shown by each of them."""
    _, file = described(tmp_path, {"schedule": {"kind": "all-layers"}, "nodes": 2, "epochs": 400})
    # Quiet: on a fast machine a display of the training would have begun by then.
    launcher = start("train", file, "--out-dir", str(tmp_path / "run"), "--quiet")
    until_made(tmp_path / "run/env.json")
    time.sleep(later)
    launcher.send_signal(number)
    _, err = end(launcher, status)
    assert err.splitlines() == [
        "training was stopped; it can go on from the finished slots",
        f"  go on with: layerline resume {tmp_path / 'run'}",
    ]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers in /proc")
def test_an_impatient_person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C, again and again: the launcher ends, and takes all workers with it. They get the time that was set."""
    monkeypatch.setenv("LAYERLINE_STOP", "2")
    _, file = described(tmp_path, {"schedule": {"kind": "all-layers"}, "nodes": 2, "epochs": 400})
    launcher = start("train", file, "--out-dir", str(tmp_path / "run"), "--quiet")
    until_made(tmp_path / "run/slots/node-1.jsonl")
    left = workers(launcher.pid)
    assert len(left) == 2
    os.kill(left[0], signal.SIGSTOP)  # will not end by itself
    launcher.send_signal(signal.SIGINT)
    time.sleep(0.5)
    launcher.send_signal(signal.SIGINT)
    end(launcher, 130)
    assert not any(Path(f"/proc/{pid}").exists() for pid in left)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LAYERLINE_SILENCE", "soon"),
        ("LAYERLINE_SILENCE", "0"),
        ("LAYERLINE_JOIN", "nan"),
        ("LAYERLINE_JOIN", "1e9"),
        ("LAYERLINE_STOP", "-1"),
    ],
)
def test_times_that_are_none(
    variable: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They ended in a traceback of every worker."""
    monkeypatch.setenv(variable, value)
    assert main([*SMALL, "--out-dir", str(tmp_path / "run"), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {variable}={value} is no time to wait\n  give seconds: {variable}=")
    assert not (tmp_path / "run").exists()


def test_what_workers_refuse_ends_the_launcher_as_it_would_end_one_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = described(tmp_path, {"schedule": {"kind": "all-layers"}, "nodes": 2, "epochs": 2})
    RunFolder.create(run, tmp_path / "run")
    with alone_in(tmp_path / "run"):
        for processes in ("1", "2"):
            assert main(["resume", str(tmp_path / "run"), "--processes", processes, "--quiet"]) == 2
            assert capsys.readouterr().err.startswith("error: another process is training in ")
