"""A plan that goes on without a node: what is left when nobody can carry out its rows any more.

    relay     1.1 ─► 1.2 ─► 1.3 ─► 1.4      node 2 is lost before 1.2      1.1 ────────► 1.3 ─► 1.4
    average   the mean of all copies of a block                            the mean of those that there are

1. A row that would have gone on from a lost one and others goes on from the others (their mean).
2. Where there are no others, it goes on from what the lost row would have gone on from.

Rows keep their numbers, and the plan its digest: what was made before the loss still belongs to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from layerline.schedules.plan import Action, Carries, Plan


def without(plan: Plan, gone: Iterable[int]) -> Plan:
    """The plan without these rows and those that are gone already; only states may lead from them to others."""
    lost = plan.gone | frozenset(gone)
    first, source, carries = [0], list[int](), list[int]()
    for row in range(len(plan)):
        for origin, what in _kept(plan, row, lost):
            source.append(origin)
            carries.append(int(what))
        first.append(len(source))
    return replace(
        plan,
        first=np.array(first, dtype=plan.first.dtype),
        source=np.array(source, dtype=plan.source.dtype),
        carries=np.array(carries, dtype=plan.carries.dtype),
        gone=lost,
        origin=plan.digest(),
    )


def rest_of(plan: Plan, node: int, done: Iterable[int]) -> set[int]:
    """The rows of a node after the last of those that it has done."""
    last = max(done, default=-1)
    return {row for row in np.flatnonzero(plan.node == node).tolist() if row > last}


def _kept(plan: Plan, row: int, lost: frozenset[int]) -> list[tuple[int, Carries]]:
    """A row's edges without those from lost rows."""
    inputs = plan.inputs(row)
    if row in lost:
        return inputs  # nobody looks at them but 2
    states = [source for source, what in inputs if what == Carries.STATE]
    there = [source for source in states if source not in lost]
    kept: list[tuple[int, Carries]] = [(source, what) for source, what in inputs if source not in lost]
    if states and not there:
        kept[:0] = [(source, Carries.STATE) for source in _before(plan, states, lost)]
    return kept


def _before(plan: Plan, states: list[int], lost: frozenset[int]) -> list[int]:
    """What lost rows would have gone on from; nothing where that is the beginning."""
    while states and all(source in lost for source in states):
        rows = [source for source in states if plan.action[source] == Action.TRAIN]
        inputs = [origin for row in rows for origin, what in plan.inputs(row) if what == Carries.STATE]
        states = sorted(set(inputs))
    return [source for source in states if source not in lost]
