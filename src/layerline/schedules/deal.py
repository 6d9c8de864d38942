"""Deal work out so that the slowest node is as fast as it can be.

stages to nodes      contiguous groups; a later node may have to forward the set through earlier blocks first
chapters to a ring   each to the node that would finish it first
images to rankers    like water: the least busy node gets the most, until all are equally late
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from layerline.schedules.plan import Column
from layerline.schedules.work import Work

Floats = NDArray[np.float64]


def stage_costs(work: Work, *, recompute: bool) -> Floats:
    """Cost [a, b] of a chapter for a node that owns stages a … b − 1 (a < b): training, and forwarding.

    `recompute`: it forwards the set through every earlier block itself, and not beyond what it needs. Otherwise the
    outputs come from the node before, and it forwards through its own blocks for the node after.
    """
    trained = np.concatenate([[0.0], np.cumsum(work.train)])
    forwards = np.array([*work.forward[:-1], 0.0, *[0.0] * work.head])  # nobody learns from the last block's outputs
    forwarded = np.concatenate([[0.0], np.cumsum(forwards)])
    cost = trained[None, :] - trained[:, None]
    if not recompute:
        return cost + forwarded[None, :] - forwarded[:, None]
    through = forwarded[np.clip(np.arange(work.stages + 1) - 1, 0, work.blocks - 1)]
    cost = cost + through[None, :]
    if work.head:  # a node with nothing but the head needs no outputs: the head makes its own neutral pass
        cost[-2, -1] -= through[-1]
    return cost


def deal_stages(cost: Floats, speeds: Sequence[float]) -> list[range]:
    """The stages of each node: contiguous, none empty, the slowest node as fast as possible (exact, in N·L² steps)."""
    stages = len(cost) - 1
    if len(speeds) == stages:
        return [range(stage, stage + 1) for stage in range(stages)]
    feasible = np.where(np.tri(stages + 1, k=0, dtype=bool), np.inf, cost)
    best = np.full(stages + 1, np.inf)
    best[0] = 0.0
    begins = []
    for speed in speeds:
        slowest = np.maximum(best[:, None], feasible / speed)
        begins.append(slowest.argmin(0))
        best = slowest.min(0)
    groups, end = [], stages
    for begin in reversed(begins):
        groups.append(range(int(begin[end]), end))
        end = int(begin[end])
    return groups[::-1]


def deal_chapters(work: Work, speeds: Sequence[float]) -> Column:
    """The node of a ring, 0 … len(speeds) − 1, that trains each chapter.

    Equal speeds: in turn. Else each chapter goes to the node that would finish it first; a node so slow that the others
    would wait for it gets none, if leaving it out ends sooner.
    """
    if len(set(speeds)) == 1:
        return np.arange(work.chapters, dtype=np.int32) % len(speeds)
    dealt = [_earliest_finish(work, speeds, slowest) for slowest in sorted(set(speeds))]
    return min(dealt, key=lambda deal: deal[0])[1]


def _earliest_finish(work: Work, speeds: Sequence[float], slowest: float) -> tuple[float, Column]:
    """When the last chapter ends, and the nodes, using none slower than `slowest`."""
    train = np.array(work.train)
    forward = np.array([*work.forward[:-1], 0.0, *[0.0] * work.head])
    left = np.cumsum((train + forward)[::-1])[::-1]  # of a chapter, from the beginning of each stage
    ranking = work.ranking if work.judged else 0.0
    free = [0.0] * len(speeds)
    done = np.zeros(work.stages)  # when each stage was trained last
    order, end = np.zeros(work.chapters, np.int32), 0.0
    for chapter in range(work.chapters):
        ends = {}
        for speed in {s for s in speeds if s >= slowest}:  # of equally fast nodes only the first free one matters
            node = min((n for n, s in enumerate(speeds) if s == speed), key=lambda n: free[n])
            ends[node] = max(free[node] + left[0] / speed, float((done + left / speed).max()))
        node = min(ends, key=lambda n: (ends[n], n))
        speed, lead = speeds[node], left[0] - left
        start = np.maximum.accumulate(np.maximum(done, free[node] + lead / speed) - lead / speed) + lead / speed
        done, order[chapter] = start + train / speed, node
        free[node] = ends[node] + ranking / speed
        end = max(end, free[node])
    return end, order


def deal_images(loads: Sequence[float], amount: float, speeds: Sequence[float]) -> tuple[float, ...]:
    """Fractions, adding up to 1, of a task of cost `amount` for nodes that are busy for `loads` seconds anyway."""
    if amount <= 0:
        return tuple(1 / len(loads) for _ in loads)
    order = np.argsort(loads, kind="stable")
    rate = np.cumsum(np.array(speeds)[order])
    level = (amount + np.cumsum(np.array(speeds)[order] * np.array(loads)[order])) / rate
    following = np.append(np.array(loads)[order][1:], np.inf)
    full = float(level[np.argmax(level <= following)])
    shares = np.maximum(0.0, full - np.array(loads)) * np.array(speeds) / amount
    return tuple((shares / shares.sum()).tolist())
