"""How much each node holds at its peak.

Problem: what a node holds changes with every row. Solution: every result is held on a node from the row that makes it
(or, if it came from elsewhere, that first needs it) to the last that needs it there. With each node's rows side by
side, a running sum of beginnings and ends is what it holds at every row.

    training set     its shard's images and labels, always
    train row        weights, gradient and moments: the state before it becomes the state after it
    forward row      the set's outputs
    moments          where they don't travel, each node keeps its own of every block it trains, always
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from layerline.schedules.costs import Costs, World
from layerline.schedules.plan import Action, Carries, Plan

Bytes = NDArray[np.int64]
Rows = NDArray[np.integer]


def peak_memory(plan: Plan, costs: Costs, world: World) -> Bytes:
    """The most bytes each node holds at a time."""
    by_node = np.argsort(plan.node, kind="stable")
    place = np.empty(len(plan) + 1, np.int64)  # of each row, when every node's rows stand together
    place[by_node] = np.arange(len(plan))
    results = _results(plan, costs, world)
    change = np.zeros(len(plan) + 1)
    lone = np.ones(len(plan), bool)
    for begin, last, state, row in (_made_here(plan), _received(plan)):
        # A state ends where the next one, which takes its place, begins; anything else after the row.
        held = results[row].astype(np.float64)
        change += np.bincount(place[begin], held, len(change))
        change -= np.bincount(place[last] + ~state, held, len(change))
        lone[row[begin == row]] = False

    parts = plan.shards * plan.rounds_per_chapter
    moment = np.where(lone, results, 0)  # held during the row only: a result that goes elsewhere …
    train = plan.action == Action.TRAIN
    moment[train] += np.array(costs.weights)[plan.stage[train]]  # … the gradient …
    moment[train & (plan.stage == plan.blocks)] += costs.features // parts  # … and what the head learns from
    held = np.cumsum(change)[:-1] + moment[by_node]
    rows = np.bincount(plan.node, minlength=plan.nodes)
    peaks = np.zeros(plan.nodes, np.int64)
    peaks[rows > 0] = np.maximum.reduceat(held, (np.cumsum(rows) - rows)[rows > 0])
    return peaks + _always(plan, costs, world)


_Held = tuple[Rows, Rows, NDArray[np.bool_], Rows]
"""Results on a node: the rows from and to which it holds them, whether the last use is as a state, and their source."""


def _made_here(plan: Plan) -> _Held:
    """Results that rows of their own node use."""
    target = plan.target
    local = plan.node[plan.source] == plan.node[target]
    last, state = np.full(len(plan), -1), np.zeros(len(plan), bool)
    last[plan.source[local]] = target[local]  # targets ascend, so the last one stays
    state[plan.source[local]] = plan.carries[local] == Carries.STATE
    row = np.flatnonzero(last >= 0)
    return row, last[row], state[row], row


def _received(plan: Plan) -> _Held:
    """Results that rows of other nodes use, once per node."""
    target = plan.target
    crossing = plan.node[plan.source] != plan.node[target]
    source, target, state = plan.source[crossing], target[crossing], plan.carries[crossing] == Carries.STATE
    key = source.astype(np.int64) * plan.nodes + plan.node[target]
    order = np.argsort(key, kind="stable")
    border = np.flatnonzero(np.diff(key[order])) + 1
    first = order[np.append(0, border)] if len(order) else order
    last = order[np.append(border - 1, len(order) - 1)] if len(order) else order
    return target[first], target[last], state[last], source[first]


def _results(plan: Plan, costs: Costs, world: World) -> Bytes:
    """What each row leaves."""
    weights, moments = np.array(costs.weights), np.array(costs.moments)
    table = np.zeros((len(Action), plan.stages), np.int64)
    table[Action.TRAIN] = weights + (moments if world.moments_travel else 0)
    table[Action.FORWARD, : plan.blocks] = np.array(costs.outputs) // plan.shards // plan.rounds_per_chapter
    table[Action.NEGATIVES] = costs.labels // plan.shards // plan.parts
    return table[plan.action, plan.stage]


def _always(plan: Plan, costs: Costs, world: World) -> Bytes:
    """What each node holds from beginning to end."""
    used = np.bincount(plan.node, minlength=plan.nodes) > 0
    always = used * ((costs.data + costs.labels) // plan.shards)
    if not world.moments_travel:
        train = plan.action == Action.TRAIN
        pairs = np.unique(plan.node[train].astype(np.int64) * plan.stages + plan.stage[train])
        always = always + np.bincount(
            pairs // plan.stages, np.array(costs.moments)[pairs % plan.stages], plan.nodes
        ).astype(np.int64)
    return always
