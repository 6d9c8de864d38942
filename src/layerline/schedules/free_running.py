"""Blocks that run freely: who takes which minibatch when, on a virtual clock.

Problem: free-running blocks have no plan, so two runs differ, and none can be done again. Solution: what a block
computes depends on the minibatches it takes, one after the other, and on nothing else. A list of (block, minibatch) is
therefore all there is to a free run. Here a virtual clock makes it, beforehand; nodes that really run freely can record
theirs; and whoever has the list can do the run again, to the same bits.

    two blocks, the second takes 1.5 times as long, M = 1, five minibatches of data

    time     0     1     2     3     4     5     6
    block 0  ├──0──┼──1──┼──2──┼──3──┼──4──┤            what is finished goes to the next ring, over the oldest
    block 1        ├───0────┼───1────┼───3────┼───4──   who is free takes what the ring gives: here the newest

    order    (0,0) (1,0) (0,1) (0,2) (1,1) (0,3) …      by the time at which a block begins; all numbers from 0

The first block takes every minibatch of the data once. Every other one goes on until it has learned from the last of
them, whatever it skipped or used again on its way: so all end together, the faster with more steps. What arrives at a
moment is there for those who begin at that moment.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

from layerline.schedules.replay import Ring

Events = list[tuple[int, int]]
"""(block, minibatch) by time of begin, from 0: the number of the step of the block below that made the minibatch; for
the first block, the number of the minibatch of data."""

SCHEDULE = "free"
"""What the record of a free run is called where it is shown like a plan."""


def run_freely(paces: Sequence[Iterator[float]], steps: int, buffer: int, max_reuse: int | None = None) -> Events:
    """The order of events of one block for each of `paces`, which say how long its steps take, one after the other.

    `steps`: minibatches of the data; `buffer`: M of every ring.
    """
    rings = [Ring(buffer, max_reuse) for _ in paces[1:]]
    origins: list[list[int]] = [[] for _ in paces]  # of each block's steps: the minibatch of data they go back to
    idle = set(range(len(paces)))
    at_work: list[tuple[float, int]] = []
    events: Events = []
    now = 0.0
    while True:
        for block in sorted(idle, reverse=True):
            made = origins[block]
            if made[-1:] == [steps - 1]:
                continue
            source = rings[block - 1].take() if block else len(made)
            if source is not None:
                events.append((block, source))
                made.append(origins[block - 1][source] if block else source)
                idle.remove(block)
                heapq.heappush(at_work, (now + next(paces[block]), block))
        if not at_work:
            return events
        now = at_work[0][0]
        while at_work and at_work[0][0] == now:
            _, block = heapq.heappop(at_work)
            idle.add(block)
            if block < len(rings):
                rings[block].insert(len(origins[block]) - 1)
