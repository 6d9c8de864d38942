"""From a plan to ready tasks, for an engine that hands out work instead of letting nodes wait for each other.

Problem: where nodes cannot talk to each other, somebody in the middle has to say when a node can begin; and a node that
waits for the end of a round waits for the slowest. Solution: a table of what every node does next.

    node 1   done ■ ■ │ task: forward 1.1, train 2.1 ─► node 2 │ …
    node 2   done     │ task: train 1.2 (with node 1's 1.1)    │ …

1. A task is rows of one node, in its order. All messages that they take are there when it is handed out.
2. It ends with the first row that somebody else waits for, so that a result is handed on as soon as it exists.
3. A node has one task at a time; the rows of a task that is lost are ready again.

The order of rows is the plan's, so the first row that is not done is always ready: nothing can wait for ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from layerline.schedules.lower import Messages, messages
from layerline.schedules.plan import Plan
from layerline.schedules.window import window


@dataclass(frozen=True)
class Task:
    """Rows that a node can carry out now."""

    node: int
    rows: tuple[int, ...]
    messages: tuple[int, ...]
    """What it takes from others: numbers of rows of the table's `sent`, in the order of sending."""


class Ready:
    """The table: which rows every node has to do (`todo`), and which of them can begin."""

    def __init__(self, plan: Plan, todo: Iterable[int]) -> None:
        self.plan, self.sent = plan, messages(plan)
        self._open = set(todo)
        self._queues: list[deque[int]] = [deque() for _ in range(plan.nodes)]
        for row in sorted(self._open):
            self._queues[int(plan.node[row])].append(row)
        self._incoming = _by(self.sent.before.tolist(), self.sent)
        self._sends = set(self.sent.source.tolist())
        self._after: dict[int, list[int]] = {}
        edges = window(plan, self.sent)
        for row, after in zip(edges.row.tolist(), edges.after.tolist(), strict=True):
            self._after.setdefault(row, []).append(after)

    @property
    def finished(self) -> bool:
        """Whether all is done."""
        return not self._open

    def next(self, node: int) -> Task | None:
        """What a node that has nothing to do can begin with; None where it has to wait, or has done its part."""
        rows: list[int] = []
        for row in self._queues[node]:
            if not self._can(row):
                break
            rows.append(row)
            if row in self._sends:  # 2
                break
        taken = sorted(message for row in rows for message in self._incoming.get(row, ()))
        return Task(node, tuple(rows), tuple(taken)) if rows else None

    def finish(self, task: Task) -> None:
        """A task is done; its results are there for others."""
        queue = self._queues[task.node]
        for row in task.rows:
            assert queue[0] == row, "tasks of a node are done in its order"
            queue.popleft()
            self._open.remove(row)

    def position(self, node: int) -> int:
        """The row a node comes to next; the number of the plan's rows where it has done its part."""
        return self._queues[node][0] if self._queues[node] else len(self.plan)

    def _can(self, row: int) -> bool:
        """1, and not too far ahead of those who read from it (`window`)."""
        sources = [int(self.sent.source[message]) for message in self._incoming.get(row, ())]
        return not any(each in self._open for each in (*sources, *self._after.get(row, ())))


def _by(rows: list[int], sent: Messages) -> dict[int, list[int]]:
    """The messages that are taken before each row."""
    found: dict[int, list[int]] = {}
    for message, row in zip(range(len(sent)), rows, strict=True):
        found.setdefault(row, []).append(message)
    return found
