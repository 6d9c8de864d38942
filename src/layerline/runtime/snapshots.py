"""Snapshots of a plan that exchanges per batch: where a killed run goes on.

    round     … 99 │ 100  101 … 199 │ 200 …
    node 1         ▪                ▪            ▪ the node's state on disk: all its blocks, moments, labels, records
    node 2         ▪                ▪

Problem: a slot is one minibatch, and a file for each would be most of the work. Solution: every so many rounds all
nodes keep their whole state. Which rounds these are follows from the plan and not from clocks, so that nodes which are
not equally far keep states of the same moment. The run goes on from the last snapshot that all of them have.

A node's state is kept under its last row before the snapshot. A node without a row between two snapshots has one state
for both.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

import numpy as np

from layerline.run import Run
from layerline.runtime.needs import last_slots
from layerline.schedules.costs import Machine, Sizes, estimate
from layerline.schedules.plan import Plan

_SECONDS_A_ROW = 1e-3  # at least; the rest of a row that no formula knows
_ROUNDS = 200  # between snapshots, where there is no formula


def rounds_between(run: Run, plan: Plan, sizes: Sizes | None) -> int:
    """Rounds from snapshot to snapshot: `checkpoint_seconds`, by the cost formula for an assumed machine."""
    if sizes is None:
        return _ROUNDS
    costs = estimate(sizes, Machine())
    formula = (sum(costs.train) + sum(costs.forward)) / plan.rounds_per_chapter / plan.shards
    seconds = max(formula, _SECONDS_A_ROW * len(plan) / plan.rounds)
    return max(1, min(plan.rounds, round(run.checkpoint_seconds / seconds)))


class Snapshots:
    """The snapshots of a plan: each is a row, and everything before it is done."""

    def __init__(self, plan: Plan, between: int) -> None:
        """`between`: rounds from snapshot to snapshot. Rows stand round by round."""
        rounds = np.arange(between, plan.rounds, between)
        self.rows: list[int] = np.searchsorted(plan.round, rounds).tolist()
        self._plan = plan
        self._own = [np.flatnonzero(plan.node == node) for node in range(plan.nodes)]
        self._finished = {node: {r for r in last_slots(plan) if plan.node[r] == node} for node in range(plan.nodes)}

    def rows_of(self, node: int, begin: int = 0) -> list[int]:
        """The rows of a node from a snapshot on."""
        own = self._own[node]
        return own[np.searchsorted(own, begin) :].tolist()

    def state(self, node: int, snapshot: int) -> int:
        """The row that a node's state at a snapshot is kept under; −1: it has not begun."""
        own = self._own[node]
        place = int(np.searchsorted(own, snapshot))
        return int(own[place - 1]) if place else -1

    def latest(self, kept: Mapping[int, Set[int]]) -> int:
        """The last snapshot that all nodes can go on from, by the rows that each has something kept under.

        0: the beginning. The number of rows: all is done.
        """
        if all(self._finished[node] <= rows for node, rows in kept.items()):
            return len(self._plan)
        for snapshot in reversed(self.rows):
            if all(self.state(node, snapshot) in rows | {-1} for node, rows in kept.items()):
                return snapshot
        return 0

    def reached(self, kept: Mapping[int, int]) -> int:
        """The last snapshot whose states are all on disk, by the last row that each node has kept something under."""
        for snapshot in reversed(self.rows):
            if all(self.state(node, snapshot) <= row for node, row in kept.items()):
                return snapshot
        return 0
