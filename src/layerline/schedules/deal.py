"""Deal work out so that the slowest node is as fast as it can be.

stages to nodes      contiguous groups; a later node may have to forward the set through earlier blocks first
chapters to a ring   each to the node that would finish it first
images to rankers    like water: the least busy node gets the most, until all are equally late
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from layerline.errors import UsageError
from layerline.schedules.plan import Column
from layerline.schedules.work import Work

Floats = NDArray[np.float64]

_MINIBATCHES = 1000  # dealt one by one; further ones go as these


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


def given_stages(owns: Sequence[int], stages: int, nodes: int, what: str = "stages") -> list[range]:
    """The stages (`what`) of each node, as somebody wants them. UsageError where every stage is not owned once."""
    if len(owns) != nodes or min(owns, default=0) < 1 or sum(owns) != stages:
        example = [stages // nodes + (node < stages % nodes) for node in range(nodes)]
        raise UsageError(
            f"--owns {','.join(map(str, owns))} does not deal {stages} {what} to {nodes} node{'s' * (nodes != 1)}",
            hint=f"say how many each owns, 1 at least, like --owns {','.join(map(str, example))}",
        )
    ends = list(accumulate(owns, initial=0))
    return [range(begin, end) for begin, end in pairwise(ends)]


def deal_chapters(work: Work, speeds: Sequence[float], shards: int = 1) -> Column:
    """The node of a ring, 0 … len(speeds) − 1, that trains each chapter, or each round of any kind.

    Equal speeds: in turn. Else the deal that ends first of some that may be best: each chapter to the node that would
    finish it first, or to all nodes in proportion to their speeds; both also without the slowest nodes, because in a
    ring a slow chapter holds up the fast one behind it.
    """
    rounds = work.rounds(shards)
    if len(set(speeds)) == 1:
        return np.arange(rounds, dtype=np.int32) % len(speeds)
    dealt = min(rounds, _MINIBATCHES) if work.minibatches else rounds
    ring = _Ring(work, speeds, dealt)
    deals = []
    for slowest in sorted(set(speeds)):
        able = [node for node, speed in enumerate(speeds) if speed >= slowest]
        deals += [ring.earliest_finish(able), ring.in_proportion(able)]
    return np.resize(min(deals, key=lambda deal: deal[0])[1], rounds)


class _Ring:
    """Chapters on nodes of a ring, one after the other, with messages that cost nothing."""

    def __init__(self, work: Work, speeds: Sequence[float], rounds: int) -> None:
        self.speeds, self.rounds = speeds, rounds
        self.train = np.array(work.train)
        forward = np.array([*work.forward[:-1], 0.0, *[0.0] * work.head])
        self.left = np.cumsum((self.train + forward)[::-1])[::-1]  # of a chapter, from the beginning of each stage
        self.ranking = work.ranking if work.judged and not work.minibatches else 0.0  # in one round of many
        self._begin()

    def _begin(self) -> None:
        self.free = [0.0] * len(self.speeds)
        self.done = np.zeros(len(self.train))  # when each stage was trained last

    def earliest_finish(self, able: list[int]) -> tuple[float, Column]:
        """When the last chapter ends if each goes to the node that would finish it first; and these nodes."""

        def first(ends: dict[int, float]) -> int:
            # Of equally fast nodes only the one that is free first matters.
            for speed in {self.speeds[node] for node in able}:
                node = min((n for n in able if self.speeds[n] == speed), key=lambda n: self.free[n])
                ends[node] = self._end(node)
            return min(ends, key=lambda n: (ends[n], n))

        return self._deal(lambda: first({}))

    def in_proportion(self, able: list[int]) -> tuple[float, Column]:
        """The same for a smooth weighted round robin: each node gains its speed a turn, the richest pays for all."""
        credit = dict.fromkeys(able, 0.0)

        def richest() -> int:
            for node in able:
                credit[node] += self.speeds[node]
            node = max(able, key=lambda n: credit[n])
            credit[node] -= sum(self.speeds[n] for n in able)
            return node

        return self._deal(richest)

    def _deal(self, pick: Callable[[], int]) -> tuple[float, Column]:
        self._begin()
        order = np.zeros(self.rounds, np.int32)
        for number in range(self.rounds):
            order[number] = node = pick()
            end, speed, lead = self._end(node), self.speeds[node], (self.left[0] - self.left) / self.speeds[node]
            start = np.maximum.accumulate(np.maximum(self.done, self.free[node] + lead) - lead) + lead
            self.done = start + self.train / speed
            self.free[node] = end + self.ranking / speed
        return max(self.free), order

    def _end(self, node: int) -> float:
        """When a node would end the next chapter."""
        speed = self.speeds[node]
        return max(self.free[node] + self.left[0] / speed, float((self.done + self.left / speed).max()))


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
