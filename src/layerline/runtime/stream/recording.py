"""When the rows of some steps began and ended, and when their messages travelled: for the trace and the picture.

Problem: a run has tens of thousands of equal steps, and nobody looks at all of them. Solution: some after the first
two, which warm up, and the last ones are recorded: the same steps in every process, whatever step it began with, so
what a stopped run had recorded stays and the rest is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from layerline.schedules.plan import Plan
from layerline.schedules.stream_simulate import AnyStream
from layerline.transport.base import Transfer

WARM = 2
"""Steps at the beginning that are not typical."""
_STEPS, _MOST_ROWS = 8, 600  # of each end of the run, at most


def recorded_steps(steps: int, rows: int) -> list[int]:
    """The steps of a run of `steps` that are recorded, in order; `rows`: of a step. All of a short run."""
    count = max(2, min(_STEPS, _MOST_ROWS // rows))
    if steps <= WARM + 2 * count:
        return list(range(steps))
    return [*range(WARM, WARM + count), *range(steps - count, steps)]


@dataclass
class Recording:
    """What a node recorded, over all sittings of a run. Seconds since 1970."""

    sitting: int = 0
    """How often the run was gone on with."""
    rows: list[tuple[int, int, int, float, float]] = field(default_factory=list)
    """Sitting, step, row of the step, begin, end."""
    messages: list[tuple[int, int, int, float, float, str, int, int, str]] = field(default_factory=list)
    """Sitting, step and row that made it, begin, end, what, the other node, bytes, `send` or `receive`."""

    def add_message(self, row: int, transfer: Transfer) -> None:
        """A message that went or came; `row`: of its step."""
        key, times = transfer.key, (transfer.begin, transfer.end)
        what = (key.carries, transfer.peer, transfer.nbytes, transfer.direction)
        self.messages.append((self.sitting, key.chapter, row, *times, *what))

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> Recording:
        """From JSON. KeyError or TypeError where that is no such thing."""
        return cls(int(facts["sitting"]), [(*row,) for row in facts["rows"]], [(*m,) for m in facts["messages"]])


def timeline(
    stream: AnyStream, steps: Sequence[int], recorded: Sequence[Recording]
) -> tuple[Plan, dict[int, list[dict[str, Any]]]]:
    """A plan of the recorded steps alone, which bear their own numbers; and the facts of every node about its rows."""
    plan = stream.plan(len(steps))
    place = {step: at * (len(plan) // len(steps)) for at, step in enumerate(steps)}
    facts: dict[int, list[dict[str, Any]]] = {}
    for node, each in enumerate(recorded):
        told: list[dict[str, Any]] = [
            {"row": place[step] + row, "sitting": sitting, "begin": begin, "end": end, "handed": end}
            | {"durable": False, "transfers": [], "metrics": []}
            for sitting, step, row, begin, end in each.rows
            if step in place
        ]
        first = {fact["sitting"]: fact for fact in reversed(told)}
        for sitting, step, row, *rest in each.messages:
            if sitting in first and step in place:
                begin, end, carries, peer, count, direction = rest
                first[sitting]["transfers"].append([begin, end, place[step] + row, carries, peer, count, direction])
        facts[node] = told
    numbers = np.array(steps, np.int32)[plan.round]
    return replace(plan, round=numbers), facts
