"""Which steps of blocks that run freely are shown: those of two spans of time, of which nothing is missing."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerline.reporting.gantt_free import draw_free
from layerline.reporting.trace import trace_events
from layerline.runtime.stream.free_recording import _MOST, FreeRecording, free_timeline
from layerline.runtime.stream.recording import Recording
from layerline.transport.base import Transfer
from layerline.transport.message import Key

Row = tuple[int, int, float, float]


def recorded(paces: list[float], steps: int) -> tuple[list[Recording], list[list[Row]]]:
    """Nodes of a block each, which run for as long as the slowest needs; and all that they did: step, block, times."""
    until, recordings, every = steps * max(paces), [], []
    for block, pace in enumerate(paces):
        recording = Recording()
        ends = list(accumulate([pace] * round(until / pace)))
        rows = [(step, block, end - pace, end) for step, end in enumerate(ends)]
        for step, _, begin, end in rows:
            FreeRecording(recording).add(block, step, begin, end)
            transfer = Transfer(end, end + 0.1, Key(step, "parcel", block, step), block + 1, 100, "send")
            FreeRecording(recording).add_message(transfer)
        recordings.append(recording)
        every.append(rows)
    return recordings, every


@given(paces=st.lists(st.integers(1, 9).map(float), min_size=1, max_size=4), steps=st.integers(1, 400))
@settings(max_examples=60, deadline=None)
def test_what_is_shown_has_no_hole(paces: list[float], steps: int) -> None:
    recordings, every = recorded(paces, steps)
    assert all(len(each.rows) <= 2 * _MOST for each in recordings)
    plan, facts = free_timeline(recordings, len(paces))
    shown = {(fact["begin"], fact["end"], node) for node, told in facts.items() for fact in told}
    assert len(shown) == len(plan) > 0
    missing = [row[3] for node, rows in enumerate(every) for row in rows if (row[2], row[3], node) not in shown]
    if missing:  # one hole, the same for all nodes
        middle = missing[0]
        before, after = max((e for _, e, _ in shown if e < middle), default=0), max(missing)
        for node, rows in enumerate(every):
            gone = [row for row in rows if (row[2], row[3], node) not in shown]
            assert all(row[3] > before for row in gone)
            assert [row[0] for row in gone] == list(range(gone[0][0], gone[0][0] + len(gone))) if gone else True
        assert after <= max(e for _, e, _ in shown)
    else:
        assert min(len(rows) for rows in every) <= 2 * _MOST


def test_a_long_run_is_drawn_from_both_ends(tmp_path: Path) -> None:
    recordings, _ = recorded([1.0, 2.0], 500)
    plan, facts = free_timeline(recordings, 2)
    draw_free(plan, facts, [1.0, 1.0], tmp_path / "free.svg", "a run")
    ElementTree.parse(tmp_path / "free.svg")
    assert "a run: its beginning and its end" in (tmp_path / "free.svg").read_text(encoding="utf-8")
    names = {each["name"] for each in trace_events(plan, facts) if each["ph"] == "X"}
    assert {"block 1, step 1, train", "block 1, step 1000, train", "block 2, step 500, train"} <= names
    assert "block 1, step 500, train" not in names
    assert "block 1, step 1000, parcel → node 2" in names


@pytest.mark.parametrize("sittings", [1, 2])
def test_sittings_follow_each_other(sittings: int) -> None:
    recording = Recording()
    for sitting in range(sittings):
        recording.sitting = sitting
        FreeRecording(recording).add(0, sitting, 1000.0 * sitting, 1000.0 * sitting + 1)
    plan, facts = free_timeline([recording], 1)
    bars = [each for each in trace_events(plan, facts) if each["ph"] == "X"]
    np.testing.assert_allclose([each["ts"] for each in bars], [1e6 * sitting for sitting in range(sittings)])
