"""`trace.json`: what the nodes noted, read back as a viewer would."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerline
from layerline.api import train
from layerline.errors import Stopped
from layerline.events import Event, RowDone
from layerline.reporting.trace import row_name, trace_events
from layerline.run import Run
from layerline.runtime.pipeline import Measured, Pipeline
from layerline.runtime.planning import planned
from layerline.runtime.stop import Stop
from layerline.schedules.plan import Plan
from reporting.tiny import tiny_data, tiny_run

SETTINGS = {"order": "chapters", "epochs": 4, "schedule": {"kind": "all-layers"}, "nodes": 2, "device": "cpu"}
RUN = tiny_run(**SETTINGS, negatives={"kind": "adaptive"})
PLAN = planned(RUN, 2)


def bars(events: list[dict[str, Any]], node: int, lane: str) -> list[dict[str, Any]]:
    """The bars of all lanes of that kind, in time."""
    named = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    found = [e for e in events if e["ph"] == "X" and e["pid"] == node and named[e["pid"], e["tid"]].startswith(lane)]
    return sorted(found, key=lambda each: each["ts"])


def check(events: list[dict[str, Any]], plan: Plan) -> None:
    """All rows are there, named; a lane does one thing at a time; what is sent is received, by arrows."""
    for node in range(1, plan.nodes + 1):
        computing = bars(events, node, "compute")
        rows = [each["args"]["row"] for each in computing if not each["name"].endswith("keep")]
        assert sorted(set(rows)) == np.flatnonzero(plan.node == node - 1).tolist()
        assert all(row_name(plan, each["args"]["row"]).rpartition(",")[0] in each["name"] for each in computing)
        for lane in {(each["pid"], each["tid"]) for each in events if each["ph"] == "X"}:
            one = sorted((e["ts"], e["dur"]) for e in events if e["ph"] == "X" and (e["pid"], e["tid"]) == lane)
            assert all(begin + length <= following for (begin, length), (following, _) in pairwise(one))
    assert min(each["ts"] for each in events if "ts" in each) == 0
    starts = {each["id"] for each in events if each["ph"] == "s"}
    ends = {each["id"] for each in events if each["ph"] == "f"}
    assert starts
    went_on = any(each["name"] == "sitting 2" for each in events)
    assert ends < starts if went_on else ends == starts, "what was in flight is lost"


def test_what_a_run_leaves(tmp_path: Path) -> None:
    train(RUN, data=tiny_data(), out_dir=tmp_path / "run")
    table = json.loads((tmp_path / "run" / "trace.json").read_text(encoding="utf-8"))
    events = table["traceEvents"]
    check(events, PLAN)
    assert table["otherData"] == {"run": "tiny · all-layers"}
    assert {e["args"]["name"] for e in events if e["name"] == "process_name"} == {"node 1", "node 2"}
    names = [each["name"] for each in bars(events, 1, "compute")]
    assert names[:2] == ["block 1, chapter 1, train", "block 1, chapter 1, hand over"]
    assert "labels, chapter 1, rank" in names
    assert bars(events, 1, "send")[0]["name"] == "block 1, chapter 1, state → node 2"
    assert bars(events, 2, "receive")[0]["name"] == "block 1, chapter 1, state ← node 1"
    assert all(each["args"]["bytes"] > 0 for each in bars(events, 1, "send"))


def sittings(run: Run, folder: Path, rows: list[int]) -> Measured:
    """Train in parts: each of `rows` ends a sitting."""
    left, plan, data = list(rows), planned(run, 2), tiny_data()
    while True:
        pipeline, stop = Pipeline(run, plan, data, folder), Stop()

        def hear(event: Event, stop: Stop = stop) -> None:
            if isinstance(event, RowDone) and left and event.row >= left[0]:
                stop.exit_status = 75

        try:
            number = Measured.of(pipeline.slots, plan.nodes).sittings
            pipeline.work(hear, stop, pipeline.here(), sitting=number)
        except Stopped:
            left.pop(0)
        else:
            return Measured.of(pipeline.slots, plan.nodes)


def test_sittings_follow_one_another(tmp_path: Path) -> None:
    measured = sittings(RUN, tmp_path, [5, 9])
    events = trace_events(PLAN, measured.facts)
    check(events, PLAN)
    begins = [each["ts"] for each in events if each["ph"] == "i"]
    assert [each["name"] for each in events if each["ph"] == "i"] == ["sitting 2", "sitting 3"]
    end = max(each["ts"] + each["dur"] for each in events if each["ph"] == "X")
    assert 0 < begins[0] < begins[1] < end
    assert end / 1e6 == pytest.approx(measured.seconds, abs=0.5), "no time between two sittings"


def test_what_is_sent_again_after_a_restart_is_counted(tmp_path: Path) -> None:
    """A fact of the first row after it; before, only what that row sent was counted."""
    undisturbed = sittings(RUN, tmp_path / "undisturbed", []).values(1)
    measured = sittings(RUN, tmp_path / "stopped", [5, 9])
    transfers = [t for told in measured.facts.values() for fact in told for t in fact["transfers"] if t[6] == "send"]
    assert measured.values(1)["bytes_sent"] == sum(t[5] for t in transfers) > undisturbed["bytes_sent"]


def test_messages_that_overlap_get_lanes_of_their_own() -> None:
    row = {
        "row": 0,
        "sitting": 0,
        "durable": True,
        "begin": 10.0,
        "end": 11.0,
        "handed": 11.5,
        "bytes": 9,
        "metrics": [],
    }
    facts = [[11.0, 12.0, 0, "state", 1, 5, "send"], [11.2, 11.4, 0, "weights", 1, 4, "send"]]
    events = trace_events(PLAN, {0: [row | {"transfers": facts}], 1: []})
    lanes = [e["args"]["name"] for e in events if e["name"] == "thread_name" and e["pid"] == 1]
    assert lanes == ["compute", "send", "send 2", "receive"]
    assert [(each["ts"], each["dur"]) for each in bars(events, 1, "send")] == [(1_000_000, 10**6), (1_200_000, 200_000)]


def test_nothing_noted_is_an_empty_trace() -> None:
    assert all(each["ph"] == "M" for each in trace_events(PLAN, {0: [], 1: []}))


def test_it_needs_no_torch() -> None:
    code = "import sys, layerline.reporting.trace; assert 'torch' not in sys.modules"
    source = str(Path(layerline.__file__).parents[1])
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": source})
