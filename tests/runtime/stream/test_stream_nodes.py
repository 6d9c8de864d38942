"""Streams over nodes and processes: the bits of one process, whoever is killed, stopped, or started again."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerline import api
from layerline.data.digits import load_digits
from layerline.errors import CheckpointError, LayerlineError, Stopped, UsageError
from layerline.events import EpochDone, Event, Started, StreamStarts
from layerline.runtime.stop import Stop
from layerline.runtime.stream.feed import Feed
from layerline.runtime.stream.model import build_stream_model
from layerline.runtime.stream.node import StreamNode
from layerline.runtime.stream.planning import stream_of
from layerline.runtime.stream.snapshots import newest
from layerline.runtime.stream.stage import Stage
from layerline.runtime.stream.wire import packed, unpacked
from layerline.runtime.stream.worker import GO_ON, StreamWorker
from layerline.stream_run import StreamRun
from layerline.transport.base import _Inbox
from layerline.transport.boundary import Parcel
from layerline.transport.in_process import InProcess
from runtime.members_by_hand import Member, members
from runtime.test_processes import end, start, workers

BASE: dict[str, Any] = {
    "kind": "stream",
    "dataset": "digits",
    "network": {"kind": "conv", "widths": [4, 6, 6], "classifier": "linear"},
    "epochs": 2,
    "batch_size": 200,
    "precision": "32-true",
    "threads": 1,
    "device": "cpu",
    "augment": {"shift": 1},
}
IN_PROC = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers in /proc")


def run_of(**settings: Any) -> StreamRun:
    return StreamRun.from_dict(BASE | settings)


def described(folder: Path, **settings: Any) -> tuple[StreamRun, str]:
    """The run, and a file that says it."""
    run, file = run_of(**settings), folder / "run.toml"
    file.write_text(run.to_toml(), encoding="utf-8")
    return run, str(file)


def alone(run: StreamRun) -> api.Result:
    """The trainer of one process, without nodes."""
    return api.train(run.replace(nodes=1, speeds=()))


def wait_for_snapshot(folder: Path, step: int) -> None:
    """Until some node has saved itself after so many steps."""
    until = time.monotonic() + 100
    while not any(int(path.name[:8]) >= step for path in folder.glob("checkpoints/*.json")):
        assert time.monotonic() < until, "no progress"
        time.sleep(0.02)


@pytest.mark.parametrize("microbatches", [1, 3])
@pytest.mark.parametrize("reach", [1, 2, "all"])
def test_nodes_end_with_the_bits_of_the_trainer(reach: int | str, microbatches: int) -> None:
    """Also of batch norm's statistics, and of the last minibatch of an epoch, which is smaller."""
    run = run_of(reach=reach, microbatches=microbatches)
    one = alone(run)
    for nodes in (2, 3):
        over = api.train(run.replace(nodes=nodes))
        assert over.values["weights_sha256"] == one.values["weights_sha256"]
        assert over.rows == one.rows
        assert over.values["readouts"] == one.values["readouts"]
        assert over.values["bytes_sent"] > 0


@pytest.mark.parametrize("microbatches", [2, 6])
@pytest.mark.parametrize(("reach", "kept"), [(1, (1, 1, 1)), (2, (2, 2, 1)), ("all", (3, 2, 1))])
def test_no_more_is_kept_than_the_nodes_up_to_the_loss_ask_for(
    reach: int | str, kept: tuple[int, ...], microbatches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many microbatches: counted are forward passes whose graph a block holds, as they happen."""
    most, forward = [0, 0, 0], Stage.forward

    def counted(stage: Stage, part: int, x: torch.Tensor, seed: int) -> torch.Tensor:
        h = forward(stage, part, x, seed)
        most[stage.index] = max(most[stage.index], stage.pending)
        return h

    monkeypatch.setattr(Stage, "forward", counted)
    api.train(run_of(reach=reach, microbatches=microbatches, nodes=3, epochs=1))
    assert tuple(most) == tuple(min(each, microbatches) for each in kept)


@pytest.mark.parametrize("window", [1, 2, 4, 7])
def test_no_more_microbatches_wait_than_the_window(window: int) -> None:
    """Two workers, the second of which takes its time: what has arrived there and was not taken, as it happens.

    Six microbatches a minibatch, in the last of an epoch five: leave goes on over the end of steps, ragged ones too.
    """
    run = run_of(microbatches=6, batch_size=238, nodes=2, window=window)
    data = load_digits()
    model = build_stream_model(run, data)
    stream, feeds = stream_of(model), [Feed(model, data) for _ in range(2)]
    nodes = [StreamNode(blocks, model, feed) for blocks, feed in zip(stream.owned, feeds, strict=True)]
    most, put, slow = [0], _Inbox.put, nodes[1].backward

    def counted(inbox: _Inbox, link: tuple[int, int], *message: Any) -> bool:
        found = put(inbox, link, *message)
        waiting = [key for where, key in list(inbox._messages) if where == (0, 1)]
        most[0] = max(most[0], len(waiting))
        return found

    def later(*given: Any) -> Parcel | None:
        until = time.monotonic() + 30
        while most[0] < window and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(0.002)  # for one too many
        return slow(*given)

    with pytest.MonkeyPatch.context() as patch, InProcess(2, timeout=60.0) as transport:
        patch.setattr(_Inbox, "put", counted)
        patch.setattr(nodes[1], "backward", later)
        workers = [
            StreamWorker(
                stream,
                {number: node},
                feed,
                transport,
                start=0,
                decide=lambda: GO_ON,
                save=lambda node, step: None,
                stop=Stop(),
            )
            for number, (node, feed) in enumerate(zip(nodes, feeds, strict=True))
        ]
        with ThreadPoolExecutor(2) as threads:
            assert all(len(each) == 14 for each in threads.map(lambda worker: list(worker.work()), workers))
    assert most == [window]


def test_a_window_that_nothing_looks_through_is_refused() -> None:
    with pytest.raises(UsageError, match="--window 5 has nothing to bound: gradients that come back do that"):
        run_of(window=5, reach=2)
    with pytest.raises(UsageError, match="replay buffers"):
        run_of(window=5, timing={"kind": "async"})
    with pytest.raises(UsageError, match="window: input should be less than or equal to 1024"):  # the plan is as long
        run_of(window=100_000_000)


@pytest.mark.parametrize("owns", [(1, 2), (2, 1)])
def test_nodes_own_what_the_run_says(owns: tuple[int, ...]) -> None:
    run = run_of(nodes=2, owns=owns, reach=2, max_steps=5)
    heard: list[Event] = []
    trained = api.train(run, listener=heard.append)
    assert trained.values["weights_sha256"] == alone(run.replace(owns=None)).values["weights_sha256"]
    (started,) = [event for event in heard if isinstance(event, StreamStarts)]
    assert tuple(map(len, started.blocks)) == owns


def test_bf16_and_a_minibatch_of_fewer_parts() -> None:
    """1,438 examples in minibatches of 239: the last one has four examples, in two parts instead of three."""
    run = run_of(precision="bf16-mixed", microbatches=3, batch_size=239, reach=2, nodes=3, epochs=1)
    assert api.train(run).values["weights_sha256"] == alone(run).values["weights_sha256"]


def test_training_cut_short() -> None:
    run = run_of(max_steps=10, nodes=3, microbatches=2)
    over, one = api.train(run), alone(run)
    assert over.values["weights_sha256"] == one.values["weights_sha256"]
    assert [(row.epoch, row.block) for row in over.rows] == [(e, b) for e in (1, 2) for b in ("1", "2", "3")]


@pytest.mark.parametrize(
    ("reach", "window", "processes"),
    [(1, 1, 3), pytest.param(1, 5, 2, marks=pytest.mark.slow), (2, 2, 2), ("all", 2, 3)],
)
def test_any_number_of_processes(reach: int | str, window: int, processes: int, tmp_path: Path) -> None:
    run, file = described(tmp_path, reach=reach, microbatches=3, nodes=3, window=window)
    expected, folder = api.train(run, out_dir=tmp_path / "here"), tmp_path / "run"
    words = ("train", file, "--out-dir", str(folder), "--processes", str(processes), "--format", "json")
    result = json.loads(end(start(*words))[0])
    assert result["weights_sha256"] == expected.values["weights_sha256"] == alone(run).values["weights_sha256"]
    assert result["bytes_sent"] == expected.values["bytes_sent"]
    assert result["processes"] == processes
    assert len(result["idle_seconds"]) == 3
    assert result["predicted_seconds"] > 0
    assert (folder / "metrics.csv").read_text() == (tmp_path / "here" / "metrics.csv").read_text()
    assert len(list(folder.glob("checkpoints/*"))) == 6, "nothing but the last snapshot stays"


def test_lossy_codecs_send_less_and_give_the_same_bits_in_processes(tmp_path: Path) -> None:
    here = {}
    for codec in ("fp32", "bf16", "int8"):
        run, file = described(tmp_path, reach=2, nodes=3, codec={"kind": codec})
        here[codec] = api.train(run).values
    sent = [values["bytes_sent"] / here["fp32"]["bytes_sent"] for values in here.values()]
    assert sent == pytest.approx([1, 0.5, 0.375], abs=0.01)  # int8: a quarter forward, half back
    result = json.loads(end(start("train", file, "--out-dir", str(tmp_path / "run"), "--format", "json"))[0])
    assert result["weights_sha256"] == here["int8"]["weights_sha256"] != here["fp32"]["weights_sha256"]


@IN_PROC
def test_killed_workers_are_started_again(tmp_path: Path) -> None:
    """kill -9 of any worker, at moments nobody chose: the launcher goes on from the last snapshot, to the same bits."""
    run, file = described(tmp_path, nodes=3, reach=1, microbatches=2, epochs=20, checkpoint_seconds=0.05)
    folder, draw = tmp_path / "run", random.Random(tmp_path.name)
    launcher = start("train", file, "--out-dir", str(folder), "--format", "json")
    for step in (draw.randint(1, 20), draw.randint(40, 70)):
        wait_for_snapshot(folder, step)
        os.kill(draw.choice(workers(launcher.pid)), signal.SIGKILL)
    out, err = end(launcher)
    assert err.count("going on from the last checkpoint") == 2
    result = json.loads(out)
    one = alone(run)
    assert result["weights_sha256"] == one.values["weights_sha256"]
    assert [row.loss for row in api.resume(folder).rows] == [row.loss for row in one.rows]


@IN_PROC
def test_everything_killed_then_interrupted_then_resumed_by_other_processes(tmp_path: Path) -> None:
    run, file = described(tmp_path, nodes=3, reach=2, epochs=40, checkpoint_seconds=0.05)
    folder = tmp_path / "run"
    launcher = start("train", file, "--out-dir", str(folder))
    wait_for_snapshot(folder, 10)
    for pid in [launcher.pid, *workers(launcher.pid)]:
        os.kill(pid, signal.SIGKILL)
    launcher.communicate()
    second = start("resume", str(folder), "--processes", "2", "--quiet")
    wait_for_snapshot(folder, 60)
    second.send_signal(signal.SIGINT)
    _, err = end(second, status=130)
    assert f"go on with: layerline resume {folder}" in err
    last = api.resume(folder)
    assert last.values["weights_sha256"] == alone(run).values["weights_sha256"]
    assert last.values["processes"] == 1


def test_a_stop_saves_all_nodes_after_the_same_step(tmp_path: Path) -> None:
    """In one process nothing is lost: training goes on with the very next minibatch."""
    run, stop, begun = run_of(nodes=3, microbatches=3), Stop(), []

    def hear(event: Event) -> None:
        if isinstance(event, EpochDone) and event.epoch == 1:
            stop.exit_status = 130

    with pytest.raises(Stopped) as stopped:
        api.train(run, out_dir=tmp_path / "run", listener=hear, stop=stop)
    assert stopped.value.exit_status == 130
    assert "after 9 of 16 minibatches" in str(stopped.value)
    last = api.resume(tmp_path / "run", listener=lambda e: begun.append(e.done) if isinstance(e, Started) else None)
    assert begun == [9]
    expected = alone(run)
    assert last.values["weights_sha256"] == expected.values["weights_sha256"]
    assert last.rows == expected.rows
    assert last.values["bytes_sent"] == api.train(run).values["bytes_sent"]


def test_a_damaged_cut_is_refused(tmp_path: Path) -> None:
    api.train(run_of(nodes=2, epochs=1), out_dir=tmp_path / "run")
    path = next((tmp_path / "run" / "checkpoints").glob("*.node-2.safetensors"))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(CheckpointError, match="is damaged"):
        api.resume(tmp_path / "run")


def test_the_newest_step_that_all_have() -> None:
    assert newest([[3, 9, 12], [9, 12], [3, 9]], 3) == 9
    assert newest([[3], []]) == 0, "killed while the first snapshot was made"
    with pytest.raises(CheckpointError, match=r"after 9 steps, and the files of some are gone: node 2"):
        newest([[9, 12], []], 9)


def test_a_run_whose_files_are_elsewhere_does_not_start_anew(tmp_path: Path) -> None:
    stop, run = Stop(), run_of(nodes=2, checkpoint_seconds=0.0)

    def hear(event: Event) -> None:
        stop.exit_status = 130 if isinstance(event, EpochDone) else None

    with pytest.raises(Stopped):
        api.train(run, out_dir=tmp_path / "run", listener=hear, stop=stop)
    for path in (tmp_path / "run" / "checkpoints").glob("*.node-2.*"):
        path.unlink()
    with pytest.raises(CheckpointError, match="the files of some are gone: node 2"):
        api.resume(tmp_path / "run")
    assert list((tmp_path / "run" / "checkpoints").glob("*.node-1.json"))


def test_more_nodes_than_blocks_are_refused() -> None:
    with pytest.raises(UsageError, match="4 nodes for a stream through 3 blocks"):
        api.train(run_of(nodes=4))


MAN = {"head": {"kind": "man", "momentum": 0.9}, "network": {"kind": "conv", "widths": [4, 6, 6, 6]}}


def sharing(folder: Path) -> dict[str, Any]:
    """A language model whose heads use its unembedding, and its text."""
    text = folder / "text.txt"
    text.write_text("What says the sea, little shell? What says the sea? " * 17, encoding="utf-8")
    network = {"kind": "transformer", "depth": 4, "width": 16, "attention_heads": 2, "context": 8, "dropout": 0.2}
    return {
        "dataset": str(text),
        "network": network,
        "head": {"kind": "shared-unembedding"},
        "optimizer": {"kind": "adamw", "lr": 0.01},
        "batch_size": 16,
        "augment": {},
    }


@pytest.mark.parametrize("microbatches", [1, 3])
@pytest.mark.parametrize(("kind", "reach"), [("man", 1), ("man", 2), ("shared", 1), ("shared", 2)])
def test_heads_follow_blocks_of_other_nodes(kind: str, reach: int, microbatches: int, tmp_path: Path) -> None:
    """Those of one process, to the bit: after every update, also after the last."""
    run = run_of(reach=reach, microbatches=microbatches, **(MAN if kind == "man" else sharing(tmp_path)))
    one = alone(run)
    for nodes in (2, 4):
        over = api.train(run.replace(nodes=nodes))
        assert over.values["weights_sha256"] == one.values["weights_sha256"]
        assert over.values["readouts"] == one.values["readouts"]
        assert over.rows == one.rows


@pytest.mark.parametrize("head", ["man", "auglocal"])
def test_heads_that_drop_out_draw_the_same_on_all_nodes(head: str, tmp_path: Path) -> None:
    """Decoders in a head dropped out by draws that were no function of the step: no run could be done again."""
    run = run_of(epochs=1, **sharing(tmp_path) | {"head": {"kind": head}})
    assert api.train(run.replace(nodes=2)).values["weights_sha256"] == alone(run).values["weights_sha256"]


@pytest.mark.parametrize(("kind", "processes"), [("man", 3), ("shared", 2)])
def test_heads_follow_in_processes_and_after_a_stop(kind: str, processes: int, tmp_path: Path) -> None:
    """A node is saved before it has the others' last weights; they are sent again, and also at the very end."""
    settings = {"nodes": 3, "epochs": 3, **(MAN if kind == "man" else sharing(tmp_path))}
    run, file = described(tmp_path, **settings)
    expected = alone(run)
    words = ("train", file, "--out-dir", str(tmp_path / "there"), "--format", "json")
    first, *others = members(*(Member(words, tmp_path) for _ in range(processes)))
    assert [first.status, *(other.status for other in others)] == [0] * processes, first.err
    result = json.loads(first.out)
    assert result["weights_sha256"] == expected.values["weights_sha256"]
    assert result["readouts"] == expected.values["readouts"]
    stop, folder = Stop(), tmp_path / "here"

    def hear(event: Event) -> None:
        stop.exit_status = 130 if isinstance(event, EpochDone) else None

    with pytest.raises(Stopped):
        api.train(run, out_dir=folder, listener=hear, stop=stop)
    assert api.resume(folder).values["weights_sha256"] == expected.values["weights_sha256"]
    assert api.resume(folder).values["weights_sha256"] == expected.values["weights_sha256"], "when all steps are done"


@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    order=st.randoms(use_true_random=False),
    gap=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_a_tensor_comes_as_it_lay(shape: list[int], order: random.Random, gap: bool) -> None:
    dims = list(range(len(shape)))
    order.shuffle(dims)
    tensor = torch.randn(shape).permute(dims)
    tensor = tensor[..., ::2] if gap else tensor
    came = unpacked({name: sent.clone() for name, sent in packed(tensor).items()})
    assert torch.equal(came, tensor)
    if not gap:
        assert came.stride() == tensor.stride()


def test_channels_last_stays_so() -> None:
    tensor = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    ((name, sent),) = packed(tensor).items()
    assert (name, list(sent.shape)) == ("48,1,12,3", [2, 4, 4, 3])
    assert sent.data_ptr() == tensor.data_ptr(), "nothing is copied"
    assert unpacked({name: sent}).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["", "x,y", "1", "1,1", "-3,1", "3,1,1", "1000000,1"])
def test_a_layout_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(LayerlineError, match="an activation"):
        unpacked({name: torch.zeros(2, 3)})
