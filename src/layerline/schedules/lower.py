"""From a plan to what every node does, sends and receives included.

Problem: a graph says which inputs a row needs, not when they are sent; and nodes that send and receive in unlucky
orders over queues of bounded length wait for each other for ever. Solution:

1. An edge between nodes is a message (source row, what it carries, receiving node), sent once however many rows use it,
   as soon as its source is done.
2. A link delivers in the order of sending. So a message is received *before* the first row that needs it, or needs a
   later message of the same link.
3. What one row sends to several nodes goes out in the order in which it will be received.
4. Computing never waits for a send: every link has a sender of its own, with a list as long as it gets.

    node 1   train 1.1   send (1.1 → 2)   train 1.2   send (1.2 → 2) …
    node 2   receive (1.1 ← 1)   forward 1.1   train 2.1 …

Why nothing can wait for ever, even if a sender waits until its message is taken: take the first row, in the plan's
order, that is not carried out. Its node waits for a message, for nothing else (4). The row that makes it comes earlier
and is done, so the message is with its link's sender; what stands before it there, its node takes no later (2).
Without 4 this fails: two nodes that exchange a chapter's states, each waiting to send its second one, wait for ever.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layerline.schedules.plan import Carries, Column, Plan


@dataclass(frozen=True, eq=False)
class Messages:
    """All messages of a plan as columns, in the order of sending: by source row, then by when they are received."""

    source: Column
    """The row whose result it is."""
    carries: NDArray[np.uint8]
    sender: Column
    receiver: Column
    before: Column
    """The receiver's row before which it is received."""
    needed: Column
    """The receiver's first row that uses it."""

    def __len__(self) -> int:
        return len(self.source)


def messages(plan: Plan) -> Messages:
    """What travels between nodes."""
    target = plan.target
    crossing = np.flatnonzero(plan.node[plan.source] != plan.node[target])
    source, target, carries = plan.source[crossing], target[crossing], plan.carries[crossing]
    key = (source.astype(np.int64) * len(Carries) + carries) * plan.nodes + plan.node[target]
    _, first = np.unique(key, return_index=True)  # 1: targets ascend, so the first edge has the first row in need
    source, needed, carries = source[first], target[first], carries[first]
    sender, receiver = plan.node[source], plan.node[needed]
    before = _received(plan, source, sender, receiver, needed)
    order = np.lexsort((before, source))  # 3
    return Messages(
        source=source[order],
        carries=carries[order],
        sender=sender[order],
        receiver=receiver[order],
        before=before[order],
        needed=needed[order],
    )


def _received(plan: Plan, source: Column, sender: Column, receiver: Column, needed: Column) -> Column:
    """2: per link, the least of the rows in need of a message or of one that is sent after it."""
    if not len(source):
        return needed
    link = sender.astype(np.int64) * plan.nodes + receiver
    order = np.lexsort((needed, source, link))
    # Links are set so far apart that the running minimum, from the end, starts anew at each.
    rank = np.cumsum(np.diff(link[order], prepend=link[order[0]]) != 0) * np.int64(len(plan))
    least = np.minimum.accumulate((needed[order] + rank)[::-1])[::-1] - rank
    before = np.empty_like(needed)
    before[order] = least
    return before
