"""Nodes that run freely, in processes of their own: whatever they did, the order they leave does it again."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerline import api
from layerline.errors import LayerlineError, Stopped, UsageError
from layerline.events import EpochDone, Event, Minibatch, Started
from layerline.free_sitting import FreeMember
from layerline.runtime.stop import Stop
from layerline.runtime.stream import free_worker
from layerline.runtime.stream.feed import Feed
from layerline.runtime.stream.free_node import FreeNode
from layerline.runtime.stream.landing import Landing
from layerline.runtime.stream.model import build_stream_model
from layerline.runtime.stream.wire import packed_parcel, unpacked_parcel
from layerline.runtime.stream.worker import GO_ON
from layerline.schedules.merge import Merged
from layerline.schedules.replay import Ring
from layerline.sets import load_set
from layerline.stream_run import StreamRun
from layerline.transport.in_process import InProcess
from layerline.transport.message import Key
from runtime.members_by_hand import Member, members
from runtime.stream.test_stream_nodes import BASE as IN_STEP
from runtime.test_processes import end, start, workers

BASE = IN_STEP | {"nodes": 3}
VQ = {"kind": "vq", "dims": 2, "codes": 4, "refresh": 2}
UNEVEN = {"kind": "async", "slowdowns": [1.0, 2.0, 1.0], "buffer": 2}
IN_PROC = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers in /proc")


def run_of(**settings: Any) -> StreamRun:
    return StreamRun.from_dict(BASE | {"timing": UNEVEN} | settings)


def described(folder: Path, **settings: Any) -> tuple[StreamRun, str]:
    """The run, and a file that says it."""
    run, file = run_of(**settings), folder / "run.toml"
    file.write_text(run.to_toml(), encoding="utf-8")
    return run, str(file)


def done_again(run: StreamRun, folder: Path) -> api.Result:
    """The run's events once more, one after the other in this process."""
    timing = {"kind": "recorded", "order_file": str(folder / "order.npy")}
    return api.train(StreamRun.from_dict(run.to_dict() | {"nodes": 1, "timing": timing}))


def wait_for_snapshot(folder: Path, snapshot: int) -> None:
    """Until some node has its part of a snapshot."""
    until = time.monotonic() + 100
    while not any(int(path.name[:8]) >= snapshot for path in folder.glob("checkpoints/*.json")):
        assert time.monotonic() < until, "no progress"
        time.sleep(0.02)


def assert_epochs(rows: list[tuple[int, str]], last: int) -> None:
    """Every block has come to the last epoch, one after the other; one that was held up may have come past some."""
    for block in "123":
        epochs = [epoch for epoch, each in rows if each == block]
        assert epochs == sorted(set(epochs))
        assert epochs[-1] == last


def by_block(result: api.Result) -> list[str]:
    return sorted(map(repr, result.rows))


@pytest.mark.parametrize(
    "case",
    [
        {"microbatches": 2},
        {"boundary": {"kind": "bf16"}, "nodes": 2},
        {"boundary": {"kind": "int8"}, "timing": {"kind": "async", "max_reuse": 1}},
        {"boundary": VQ, "precision": "bf16-mixed"},
    ],
)
def test_the_order_is_done_again_to_the_same_bits(case: dict[str, Any], tmp_path: Path) -> None:
    run = run_of(**case)
    free = api.train(run, out_dir=tmp_path / "run")
    again = done_again(run, tmp_path / "run")
    assert free.values["weights_sha256"] == again.values["weights_sha256"]
    assert by_block(free) == by_block(again)
    assert free.values["order"] == "order.npy"
    assert free.values["events"] == len(np.load(tmp_path / "run" / "order.npy"))
    assert sum(free.values["share_of_events"]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("boundary", "processes"), [("plain", 2), ("int8", 3), ("vq", 3)])
def test_processes(boundary: str, processes: int, tmp_path: Path) -> None:
    """Slowed nodes, distant links: what really happened is in the order, and nobody's bits are lost on the way."""
    coded = VQ if boundary == "vq" else {"kind": boundary}
    run, file = described(tmp_path, boundary=coded, timing=UNEVEN | {"link_delay": 0.01})
    folder = tmp_path / "run"
    words = ("train", file, "--out-dir", str(folder), "--format", "json")
    first, *others = members(*(Member(words, tmp_path) for _ in range(processes)))
    assert [first.status, *(other.status for other in others)] == [0] * processes, first.err
    result = json.loads(first.out)
    again = done_again(run, folder)
    assert result["weights_sha256"] == again.values["weights_sha256"]
    assert result["processes"] == processes
    assert [each["block"] for each in result["blocks"]] == [1, 2, 3]
    assert result["blocks"][0]["steps"] == 16
    assert result["blocks"][0]["most_uses"] == 1, "the first block reads every minibatch of the data once"
    assert result["bytes_sent"] > 0
    assert [each["block"] for each in result["boundaries"]] == [1, 2]
    rows = [line.split(",")[:2] for line in (folder / "metrics.csv").read_text().splitlines()[1:]]
    assert_epochs([(int(epoch), block) for epoch, block in rows], 2)
    events = json.loads((folder / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    bars = [each for each in events if each["ph"] == "X" and each["cat"] == "compute"]
    assert 0 < len(bars) <= result["events"]
    trained = {each["name"] for each in bars if each["name"].endswith("train")}
    assert {f"block {block}, step 1, train" for block in (1, 2, 3)} <= trained
    assert any(each["name"] == "block 2, step 1, parcel → node 3" for each in events)
    assert "blocks that run freely" in (folder / "gantt.svg").read_text(encoding="utf-8")


@IN_PROC
@pytest.mark.timeout(300)
def test_killed_workers_are_started_again(tmp_path: Path) -> None:
    """kill -9 of any worker, at a moment nobody chose: what was lost is in no order, and the order has the bits."""
    run, file = described(tmp_path, boundary=VQ, epochs=20, checkpoint_seconds=0.02)
    folder, draw = tmp_path / "run", random.Random(tmp_path.name)
    launcher = start("train", file, "--out-dir", str(folder), "--format", "json")
    wait_for_snapshot(folder, draw.randint(1, 4))
    os.kill(draw.choice(workers(launcher.pid)), signal.SIGKILL)
    out, err = end(launcher)
    assert err.count("going on from the last checkpoint") == 1
    assert json.loads(out)["weights_sha256"] == done_again(run, folder).values["weights_sha256"]
    assert len(list(folder.glob("checkpoints/*"))) == 6, "nothing but the last snapshot stays"
    assert_epochs([(row.epoch, row.block) for row in api.resume(folder).rows], 20)


@IN_PROC
@pytest.mark.timeout(300)
def test_stopped_then_resumed_by_other_processes(tmp_path: Path) -> None:
    run, file = described(tmp_path, epochs=20, checkpoint_seconds=0.02, timing=UNEVEN | {"max_reuse": 2})
    folder = tmp_path / "run"
    launcher = start("train", file, "--out-dir", str(folder))
    wait_for_snapshot(folder, 2)
    launcher.send_signal(signal.SIGTERM)
    _, err = end(launcher, status=75)
    assert "training was stopped; it can go on from the last checkpoint" in err
    assert f"go on with: layerline resume {folder}" in err
    begun: list[int] = []
    last = api.resume(folder, listener=lambda e: begun.append(e.done) if isinstance(e, Started) else None)
    assert begun[0] > 0
    assert last.values["weights_sha256"] == done_again(run, folder).values["weights_sha256"]


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_stop_saves_what_lies_in_the_buffers(epoch: int, tmp_path: Path) -> None:
    """After the last epoch of the first block the slow one still has to take what was sent last."""
    run, stop = run_of(boundary=VQ, timing={"kind": "async", "slowdowns": [1.0, 5.0, 1.0], "buffer": 3}), Stop()

    def hear(event: Event) -> None:
        if isinstance(event, EpochDone) and (event.epoch, event.rows[0].block) == (epoch, "1"):
            stop.exit_status = 130

    with pytest.raises(Stopped, match=r"saved after [1-9]\d* of 48 minibatches") as stopped:
        api.train(run, out_dir=tmp_path / "run", listener=hear, stop=stop)
    assert stopped.value.exit_status == 130
    last = api.resume(tmp_path / "run")
    again = done_again(run, tmp_path / "run")
    assert last.values["weights_sha256"] == again.values["weights_sha256"]
    assert by_block(last) == by_block(again)


def test_a_stop_waits_for_a_slow_first_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mark comes after its step, however slowed that is; a worker of another process gave up after 3 s."""
    run, now, stop = run_of(), [0.0], Stop()
    data = load_set(run)
    model = build_stream_model(run, data)
    monkeypatch.setattr(free_worker, "time", SimpleNamespace(monotonic=lambda: now[0], time=time.time))
    with InProcess(3) as transport:
        worker = free_worker.FreeWorker(
            {1: FreeNode([1], model, Feed(model, data), 1, None)},
            3,
            transport,
            snapshot=0,
            buffer=1,
            factors=(5.0, 1.0, 1.0),
            delay=0.0,
            decide=lambda: GO_ON,
            save=lambda node, snapshot: None,
            stop=stop,
        )
        for second in (0, 1, 100, 115):  # asked after the second one
            now[0] = float(second)
            stop.exit_status = 75 if second >= 100 else None
            worker._heed()
        now[0] = 130.0  # the first node was not asked
        with pytest.raises(Stopped):
            worker._heed()


def test_what_nodes_of_one_process_note(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a folder there are no snapshots, and the list of messages grew to the end; and each node counted all of
    the process's time as its own: 2.8 times as fast as one process can be."""
    made: list[InProcess] = []

    def transport(*given: Any, **named: Any) -> InProcess:
        made.append(InProcess(*given, **named))
        return made[-1]

    left: list[int] = []

    def hear(event: Event) -> None:
        if isinstance(event, EpochDone):
            left.append(len(made[0].at(int(event.rows[0].block) - 1).events))

    monkeypatch.setattr("layerline.stream_sitting.InProcess", transport)
    values = api.train(run_of(timing={"kind": "async"}), listener=hear).values
    assert left == [0] * 6
    assert values["bytes_sent"] > 0
    assert 0 < values["utilisation"] <= 1, "a node's time is not that of the others in its process"


def test_no_epoch_is_shown_after_the_last() -> None:
    """The first block has had all the data, a block elsewhere goes on: it is still the last epoch."""
    heard: list[Event] = []
    member = FreeMember.__new__(FreeMember)
    member.job = SimpleNamespace(run=run_of())  # type: ignore[assignment]
    member.board = SimpleNamespace(look={"steps 1": 3}.get)  # type: ignore[assignment]
    member.nodes, member.heard = {}, heard.append
    member._counted, member._epochs, member._rows = {1: 1}, {"1": 2, "2": 1}, {"1": 0, "2": 0}
    member._complete()
    assert heard == [Minibatch(2, "all blocks")] * 2


@IN_PROC
@pytest.mark.timeout(300)
def test_a_lost_worker_is_one_clear_error(tmp_path: Path) -> None:
    _, file = described(tmp_path, epochs=500, checkpoint_seconds=0.2)
    folder = tmp_path / "run"
    launcher = start("train", file, "--out-dir", str(folder), "--restarts", "0")
    wait_for_snapshot(folder, 1)
    os.kill(workers(launcher.pid)[-1], signal.SIGKILL)
    _, err = end(launcher, status=1)
    assert "a worker ended (killed by SIGKILL" in err
    assert f"layerline resume {folder}" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ({"timing": {"kind": "async", "pace": "random"}}, "one of the virtual clock"),
        ({"timing": {"kind": "async", "slowdowns": [1.0, 2.0]}}, "2 number"),
        ({"timing": {"kind": "recorded", "order_file": __file__}}, "done again by one node"),
        ({"codec": {"kind": "bf16"}}, "for nodes that wait for each other"),
        ({"boundary": VQ | {"dims": 5}}, "no groups of 5"),
        ({"nodes": 4}, "4 nodes for a stream through 3 blocks"),
        ({"nodes": 1, "timing": {"kind": "async", "link_delay": 1}}, "on one node nothing is sent"),
    ],
)
def test_what_cannot_be_is_refused(case: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=why):
        api.train(run_of(**case), out_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def parcel(step: int, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"outputs": torch.full((2, 3), float(step)), "labels": torch.arange(2), "origin": torch.tensor(step)} | more


def test_codes_lie_where_they_are_used() -> None:
    """What came from another process lies in the host's memory, and was looked up there by indices on a GPU."""
    run = run_of(boundary=VQ)
    data = load_set(run)
    model = build_stream_model(run, data)
    node = FreeNode([1], model, Feed(model, data), 1, None)
    node.device = torch.device("meta")
    node.put(1, 0, parcel(0, version=torch.tensor(1), codes=torch.ones(2, 4, 2)))
    assert node._inlets[1].versions()["1"].is_meta


def test_a_parcel_comes_as_it_lay() -> None:
    sent = parcel(1, version=torch.tensor(3), image=torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last))
    came = unpacked_parcel({name: tensor.clone() for name, tensor in packed_parcel(sent).items()})
    assert list(came) == list(sent)
    assert all(torch.equal(came[name], sent[name]) for name in sent)
    assert all(came[name].stride() == sent[name].stride() for name in sent)
    with pytest.raises(LayerlineError, match="no layout"):
        unpacked_parcel({"outputs": torch.ones(2, 3)})


@given(size=st.integers(1, 4), looks=st.lists(st.integers(0, 9), max_size=6))
def test_a_landing_leaves_in_the_buffer_what_no_landing_would(size: int, looks: list[int]) -> None:
    """The node looks after so many arrivals each time; its buffer then holds the last M, and news of all."""
    landing, through, direct, made, news = Landing(size, lambda: None), Ring(size), Ring(size), 0, []
    for arrivals in looks:
        for step in range(made, made + arrivals):
            codes = {"codes": torch.tensor([float(step)])} if step % 3 == 0 else {}
            landing.put(Key(step, "parcel", 0, step), packed_parcel(parcel(step, **codes)))
            direct.insert(step)
        made += arrivals
        came, mark = landing.take()
        assert mark is None
        assert len(came) <= size
        for step, each in came:
            through.insert(step)
            news += [int(each["codes"])] if "codes" in each else []
        assert [place.step for place in through.places] == [place.step for place in direct.places]
        assert not came or news[-1] == (made - 1) // 3 * 3, "the codes of what is kept have come, whatever was dropped"


def test_a_mark_stays_between_what_was_sent_before_and_after_it() -> None:
    landing = Landing(1, lambda: None)
    for step in (1, 2):
        landing.put(Key(step, "parcel", 0, step), packed_parcel(parcel(step)))
    landing.put_mark(Key(5, "mark", 0, 0), {"mark": torch.tensor(1)})
    for step in (3, 4):
        landing.put(Key(step, "parcel", 0, step), packed_parcel(parcel(step)))
    (before,), mark = landing.take()
    assert (before[0], mark) == (2, (5, 1))
    (after,), mark = landing.take()
    assert (after[0], mark, landing.dropped) == (4, None, 2)


@given(seed=st.integers(0, 10**6), skew=st.floats(-50, 50))
@settings(max_examples=50)
def test_records_become_an_order_that_could_have_happened(seed: int, skew: float) -> None:
    """Also where the clock of the second block's machine is far off."""
    draw, steps = np.random.default_rng(seed), 20
    first = [(0, step) for step in range(steps)]
    second = [(1, source) for source in [*sorted(draw.integers(0, steps - 1, size=steps).tolist()), steps - 1]]
    events = np.array(first + second, dtype=np.int32)
    begins = np.concatenate([np.arange(steps), skew + np.sort(draw.uniform(0, 30, steps + 1))])
    recorded = Merged.of(events, np.stack([begins, begins + 0.5], 1), 2, steps)
    recorded.order.check("it")
    for block, own in enumerate((first, second)):
        assert [tuple(e) for e in recorded.order.events.tolist() if e[0] == block] == own
    assert recorded.facts()[1]["minibatches"] == len({source for _, source in second})


def test_ages_and_uses() -> None:
    """Block 2 begins when block 1 has finished four steps, and takes the second and the last of them."""
    events = np.array([(0, 0), (0, 1), (0, 2), (0, 3), (1, 1), (1, 1), (1, 1), (1, 3)], dtype=np.int32)
    begins = np.array([0, 1, 2, 3, 4, 5, 6, 7], dtype=np.float64)
    first, second = Merged.of(events, np.stack([begins, begins + 1], 1), 2, 4).facts()
    assert first == {"block": 1, "steps": 4, "minibatches": 4, "uses": 1.0, "most_uses": 1}
    assert second == {
        **{"block": 2, "steps": 4, "minibatches": 2, "uses": 2.0, "most_uses": 3},
        **{"age": 1.5, "oldest": 2},
    }
    with pytest.raises(LayerlineError, match="after 4 events"):
        Merged.of(events[[0, 1, 2, 3, 4]] + np.array([0, 5]) * (np.arange(5) == 4)[:, None].astype(np.int32),
                    np.stack([begins, begins + 1], 1)[:5], 2, 1)  # fmt: skip
