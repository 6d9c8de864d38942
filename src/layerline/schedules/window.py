"""How far a node may run ahead of those who read from it.

Problem: a node that needs nothing of later ones (Single-Layer with fixed negatives) can be done with all its chapters
while they are at their first. Everything it sends waits in their memory, and on its own disk. Bounding the links is no
way out: with room for too few messages, two nodes can wait for each other for ever.

Solution: a few more edges, which carry nothing. Before a node begins a chapter, its readers have done all that the plan
has, in its order, before the chapter that the node began `AHEAD` chapters of its own ago:

    the plan's order              1.1 │ 1.2  2.1 │ 1.3  2.2  3.1 │ 1.4  2.3  3.2 │ 1.5  2.4  3.3 │ …
    1.5 waits for all before 1.3  ───────────────┘ on the nodes that read from node 1, so for 2.1; 1.6 for 2.2 and 3.1

The nodes keep the distance that the plan gives them, and up to `AHEAD` chapters more. Nothing can wait for ever: these
edges, like all others, lead from earlier rows to later ones, so the first row that is not carried out can be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layerline.schedules.lower import Messages
from layerline.schedules.plan import Action, Plan

AHEAD = 2
"""Chapters. One would do where all slots take the same time; the second one takes up what varies."""

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Window:
    """Row `row[i]` begins when row `after[i]`, another node's, is done and noted; ascending by row."""

    row: Rows
    after: Rows


def window(plan: Plan, sent: Messages) -> Window:
    """The edges. `after` are rows that leave a result on disk: how far those are is known to all."""
    by_node = np.argsort(plan.node, kind="stable")
    own = np.split(by_node, np.cumsum(np.bincount(plan.node, minlength=plan.nodes))[:-1])  # each node's rows
    begins = [_begins(plan, rows) for rows in own]
    leaves = [rows[plan.action[rows] != Action.FORWARD] for rows in own]
    links = np.unique(np.stack((sent.sender, sent.receiver)), axis=1).T.tolist()
    rows, after = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for sender, reader in links:
        row, then = begins[sender][AHEAD:], begins[sender][:-AHEAD]
        last = np.searchsorted(leaves[reader], then) - 1
        rows.append(row[last >= 0])
        after.append(leaves[reader][last[last >= 0]])
    row, of = np.concatenate(rows), np.concatenate(after)
    order = np.argsort(row, kind="stable")
    return Window(row[order], of[order])


def _begins(plan: Plan, rows: Rows) -> Rows:
    """The first row of every chapter in which a node with these rows trains."""
    trained = rows[plan.action[rows] == Action.TRAIN]
    _, first = np.unique(plan.chapter[trained], return_index=True)
    return trained[first]
