"""A node that could run ahead of its reader does so by the window's width, and then waits for it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from layerline.errors import PeerLost
from layerline.events import Event, RowBegins, RowWaits
from layerline.runtime.pipeline import Others, Pipeline
from layerline.runtime.planning import planned
from layerline.runtime.post import Post
from layerline.runtime.stop import Stop
from layerline.schedules.plan import Action
from layerline.schedules.window import AHEAD
from layerline.transport.in_process import InProcess
from small_runs import small_data, small_run

DATA = small_data()
RUN = small_run(
    order="chapters", epochs=9, chapters=9, schedule={"kind": "single-layer"}, nodes=3, negatives={"kind": "fixed"}
)
PLAN = planned(RUN, 3)


def test_the_first_node_waits_for_the_last(tmp_path: Path) -> None:
    """The last node does nothing until the others have stopped by themselves; the bits are those of one process."""
    transport, stalled = InProcess(3), [threading.Event() for _ in range(3)]
    pipelines = [Pipeline(RUN, PLAN, DATA, tmp_path / str(node), nodes=[node]) for node in range(3)]
    waits, trained = [0, 0, 0], [-1, -1, -1]

    def carry_out(node: int) -> None:
        def hear(event: Event) -> None:
            if isinstance(event, RowWaits):
                waits[node] += 1
                if waits[node] == 4:  # of one row, so three times in vain
                    stalled[node].set()
            elif isinstance(event, RowBegins):
                waits[node] = 0
                if node == 2:
                    assert all(each.wait(60) for each in stalled[:2])
                if PLAN.action[event.row] == Action.TRAIN and not stalled[node].is_set():
                    trained[node] = int(PLAN.chapter[event.row])

        def done_elsewhere() -> set[int]:
            return {row for other in range(3) if other != node for row in pipelines[other].slots.done(other)}

        post = Post(PLAN, transport, moments=True)
        pipelines[node].work(hear, Stop(), post, others=Others(done_elsewhere))

    with ThreadPoolExecutor(3) as pool:
        for each in [pool.submit(carry_out, node) for node in range(3)]:
            each.result(timeout=90)
    # Slots of 1.1 … 1.5: 3.1 stands before 1.4 in the plan, and 1.6 is the first that wants it done.
    assert trained[0] == 2 + AHEAD
    assert trained[1] == 1 + AHEAD
    whole = Pipeline(RUN, PLAN, DATA, tmp_path / "whole")
    whole.work(lambda event: None, Stop(), whole.here())
    last = [row for row in range(len(PLAN)) if PLAN.action[row] == Action.TRAIN and PLAN.chapter[row] == 8]
    for row in last:
        node = int(PLAN.node[row])
        ours, theirs = pipelines[node].slots.load(row), whole.slots.load(row)
        assert all(ours[name].equal(theirs[name]) for name in theirs)


def test_a_reader_that_is_gone(tmp_path: Path) -> None:
    """Waiting for it ends."""
    transport = InProcess(3)
    pipeline = Pipeline(RUN, PLAN, DATA, tmp_path, nodes=[0])
    transport._inbox.lose(0, PeerLost("rank 1 (node 2) has closed its connection"))
    with pytest.raises(PeerLost, match="rank 1"):
        pipeline.work(lambda event: None, Stop(), Post(PLAN, transport, moments=True))
