"""A round's pattern, repeated: how schedules write their plans.

Problem: a schedule should be a few lines, and a million slots may not be made one by one. Solution: a schedule writes
the steps of one round, whose inputs are steps of the same round or of one some rounds ago; `repeat` lays the pattern
out for every round at once. Inputs from before the first round vanish. A round is a chapter, or a minibatch
(`exchange.py`).

A step may lag: in repetition r it works on round r − lag. So a pipeline is laid out slot by slot, as it happens:

    repetition   0       1       2       3
    lag 0        0       1       2
    lag 1                0       1       2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from layerline.schedules.plan import Action, Carries, Column, Plan
from layerline.schedules.work import Work


@dataclass(frozen=True)
class Input:
    """An edge from step number `step` of the pattern, as it was `ago` rounds earlier (one number, or per round)."""

    step: int
    carries: Carries
    ago: int | Column = 0


@dataclass(frozen=True)
class Step:
    """A row of every round. `node`, `shard`: one number, or per round."""

    action: Action
    stage: int
    node: int | Column
    inputs: list[Input] = field(default_factory=list)
    shard: int | Column = 0
    lag: int = 0


def repeat(
    pattern: Sequence[Step], *, schedule: str, work: Work, shards: int = 1, shares: tuple[float, ...] = (1.0,)
) -> Plan:
    """The plan of all rounds, repetition by repetition. Negatives that nobody uses are left out."""
    size, rounds = len(pattern), work.rounds(shards)
    lag = np.array([step.lag for step in pattern], np.int32)
    every = np.arange(rounds + lag.max(), dtype=np.int32)
    number = every[:, None] - lag
    inside = (number >= 0) & (number < rounds)
    within = number.clip(0, rounds - 1)

    edges = [(at, edge) for at, step in enumerate(pattern) for edge in step.inputs]
    at, step = (np.array(numbers, np.int32) for numbers in ([at for at, _ in edges], [e.step for _, e in edges]))
    then = number[:, at] - _per_round([edge.ago for _, edge in edges], within[:, at])
    begun = inside[:, at] & (then >= 0)
    target = (every[:, None] * np.int32(size) + at)[begun]
    source = ((then + lag[step]) * np.int32(size) + step)[begun]
    carries = np.broadcast_to(np.array([edge.carries for _, edge in edges], np.uint8), then.shape)[begun]

    action = np.broadcast_to(np.array([each.action for each in pattern], np.uint8), inside.shape)
    kept = (inside & (action != Action.NEGATIVES)).ravel()
    kept[source] = True
    used = kept[target]
    row = np.cumsum(kept, dtype=np.int32) - 1  # a row's number when the unused ones are gone
    first = np.zeros(np.count_nonzero(kept) + 1, np.int64)
    np.cumsum(np.bincount(row[target[used]], minlength=len(first) - 1), out=first[1:])
    stage = np.broadcast_to(np.array([each.stage for each in pattern], np.int32), inside.shape)
    return Plan(
        schedule=schedule,
        blocks=work.blocks,
        head=work.head,
        chapters=work.chapters,
        minibatches=rounds // work.chapters if work.minibatches else 0,
        nodes=work.nodes,
        shards=shards,
        shares=shares,
        action=action.ravel()[kept],
        stage=stage.ravel()[kept],
        round=number.ravel()[kept],
        node=_per_round([each.node for each in pattern], within).ravel()[kept],
        shard=_per_round([each.shard for each in pattern], within).ravel()[kept],
        first=first,
        source=row[source[used]],
        carries=carries[used],
    )


def _per_round(values: list[int | Column], number: Column) -> Column:
    """A number for every entry of `number`; column i has the values of `values[i]`."""
    result = np.empty(number.shape, np.int32)
    for index, value in enumerate(values):
        result[:, index] = value if isinstance(value, int) else value[number[:, index]]
    return result
