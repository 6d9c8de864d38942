"""`trace.json` and `gantt.svg` of a stream over nodes: which steps are there, and that they are those of the run."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerline import api
from layerline.errors import Stopped
from layerline.events import Event, Minibatch
from layerline.events import Noted as Said
from layerline.reporting.gantt_run import MISSING
from layerline.reporting.gantt_stream import planned_steps
from layerline.runtime.stop import Stop
from layerline.runtime.stream.recording import WARM, recorded_steps, timeline
from layerline.schedules.costs import World
from layerline.schedules.reach import Reach
from layerline.schedules.stream import Stream
from layerline.schedules.stream_simulate import simulate_stream
from runtime.stream.test_stream_nodes import described, run_of
from runtime.test_processes import end, start
from schedules.test_stream import costs

Events = list[dict[str, Any]]


def events_of(folder: Path) -> Events:
    events: Events = json.loads((folder / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    return events


def computed(events: Events, node: int) -> Events:
    """The rows of a node, in time."""
    rows = [each for each in events if each["ph"] == "X" and each["cat"] == "compute" and each["pid"] == node]
    return sorted(rows, key=lambda each: each["ts"])


def steps_in(events: Events) -> set[int]:
    """The steps, from 1, that have a bar."""
    names = [each["name"] for each in events if each["ph"] == "X" and each["cat"] == "compute"]
    return {int(name.split("step ")[1].split(",")[0]) for name in names}


@given(steps=st.integers(1, 50_000), rows=st.integers(1, 5000))
def test_which_steps_are_recorded(steps: int, rows: int) -> None:
    found = recorded_steps(steps, rows)
    assert found == sorted(set(found))
    assert found[-1] == steps - 1
    assert len(found) <= WARM + 16
    if len(found) < steps:
        assert found[0] == WARM, "the first two warm up"
        assert len(found) * rows <= max(1200, 4 * rows), "and no more is kept than can be looked at"


def test_processes_leave_trace_and_picture(tmp_path: Path) -> None:
    _, file = described(tmp_path, reach=2, microbatches=2, nodes=3, epochs=3)
    folder, before = tmp_path / "run", time.time()
    result = json.loads(end(start("train", file, "--out-dir", str(folder), "--format", "json"))[0])
    events = events_of(folder)
    assert steps_in(events) == {*range(3, 11), *range(17, 25)}
    for node, each_step in ((1, 5), (2, 7), (3, 5)):  # with reach 2 the first and the last block have one loss each
        rows = computed(events, node)
        assert len(rows) == 16 * each_step
        assert all(one["ts"] + one["dur"] <= other["ts"] for one, other in pairwise(rows)), "one after the other"
    assert rows[0]["name"] == "block 3, step 3, microbatch 1, forward"
    named = {each["name"] for each in computed(events, 2)}
    assert {"block 2, step 24, microbatch 2, backward of loss 3", "block 2, step 24, update"} <= named
    last = max(each["ts"] + each["dur"] for each in events if each["ph"] == "X")
    assert last / 1e6 < min(result["train_seconds"] + 0.01, time.time() - before)
    sent = {each["name"] for each in events if each["ph"] == "X" and each["cat"] == "message" and each["pid"] == 2}
    assert "block 2, step 3, microbatch 1, activations → node 3" in sent
    assert "block 2, step 3, microbatch 2, gradients → node 1" in sent
    assert "block 1, step 10, microbatch 1, activations ← node 1" in sent
    assert {each["id"] for each in events if each["ph"] == "f"} & {each["id"] for each in events if each["ph"] == "s"}
    assert result["step_seconds"] == pytest.approx(result["train_seconds"] / 24, abs=1e-4)
    assert 0 < result["predicted_step_seconds"] < result["train_seconds"]

    ElementTree.parse(folder / "gantt.svg")
    shown = (folder / "gantt.svg").read_text(encoding="utf-8")
    for said in ("<!-- measured ", "<!-- planned ", "<!-- node 1 ", "<!-- node 2 ", "<!-- node 3 ", "reach 2"):
        assert said in shown


def test_a_run_that_goes_on_keeps_what_was_recorded(tmp_path: Path) -> None:
    run, folder, stop = run_of(nodes=2, epochs=4), tmp_path / "run", Stop()
    seen: list[Event] = []

    def hear(event: Event) -> None:
        seen.append(event)
        if sum(isinstance(each, Minibatch) for each in seen) == 14:
            stop.exit_status = 75

    with pytest.raises(Stopped):
        api.train(run, out_dir=folder, listener=hear, stop=stop)
    assert not (folder / "trace.json").exists()
    api.resume(folder)
    events = events_of(folder)
    assert steps_in(events) == {*range(3, 11), *range(25, 33)}
    assert [each["name"] for each in events if each["ph"] == "i"] == ["sitting 2"]


def test_without_matplotlib_there_is_a_trace_and_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layerline.stream_job.can_draw", lambda: False)
    heard: list[Event] = []
    api.train(run_of(nodes=2, max_steps=3), out_dir=tmp_path / "run", listener=heard.append)
    assert steps_in(events_of(tmp_path / "run")) == {1, 2, 3}
    assert [each.words for each in heard if isinstance(each, Said)] == [MISSING]
    assert not (tmp_path / "run" / "gantt.svg").exists()


@pytest.mark.parametrize("reach", [1, 2, 4])
def test_the_planned_end_is_that_of_all_steps_simulated(reach: int) -> None:
    stream = Stream(reach=Reach(4, reach), owned=tuple(range(n, n + 1) for n in range(4)), microbatches=2)
    spent, world, steps = costs(4), World(bandwidth=50.0, latency=0.3, speeds=(1.0, 0.9, 1.0, 2.0)), 150
    plan, _ = timeline(stream, recorded_steps(steps, 20), [])
    few, every = (planned_steps(plan, simulate_stream(stream, spent, world, steps, at_least=n)) for n in (24, steps))
    np.testing.assert_allclose(few.rows, every.rows, rtol=1e-6)
    assert few.messages
    np.testing.assert_allclose(sorted(few.messages), sorted(every.messages), rtol=1e-6)
