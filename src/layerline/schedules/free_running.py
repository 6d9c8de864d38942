"""Blocks that run freely: who takes which minibatch when, on a virtual clock.

Problem: free-running blocks have no plan, so two runs differ, and none can be done again. Solution: what a block
computes depends on the minibatches it takes, one after the other, and on nothing else. A list of (block, minibatch) is
therefore all there is to a free run. Here a virtual clock makes it, beforehand; nodes that really run freely can record
theirs; and whoever has the list can do the run again, to the same bits.

    two blocks, the second takes 1.5 times as long, M = 1

    time     0     1     2     3     4     5     6
    block 0  ├──0──┼──1──┼──2──┼──3──┼──4──┼──5──┤      what is finished goes to the next ring, over the oldest
    block 1        ├───0────┼───1────┼───3────┼───4──   who is free takes what the ring gives: here the newest

    order    (0,0) (1,0) (0,1) (0,2) (1,1) (0,3) …      by the time at which a block begins; all numbers from 0

Every block learns in as many steps as every other. One that has had them goes on passing minibatches through,
unchanged, as long as a block after it still learns: else those would be left with its last M outputs. What arrives at a
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

    `buffer`: M of every ring; `steps`: of every block.
    """
    rings = [Ring(buffer, max_reuse) for _ in paces[1:]]
    begun, idle = [0] * len(paces), set(range(len(paces)))
    at_work: list[tuple[float, int]] = []
    events: Events = []
    now = 0.0
    while True:
        for block in sorted(idle, reverse=True):  # so that a block knows whether those after it still need it
            if min(begun[block:]) >= steps:
                continue
            source = rings[block - 1].take() if block else begun[0]
            if source is not None:
                events.append((block, source))
                begun[block] += 1
                idle.remove(block)
                heapq.heappush(at_work, (now + next(paces[block]), block))
        if not at_work:
            return events
        now = at_work[0][0]
        while at_work and at_work[0][0] == now:
            _, block = heapq.heappop(at_work)
            idle.add(block)
            if block < len(rings):
                rings[block].insert(begun[block] - 1)
