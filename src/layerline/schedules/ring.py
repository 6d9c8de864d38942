"""A round of the whole network on one node, and rings of nodes that take rounds in turn.

Sequential, All-Layers and Federated are all this: what differs is whose turn it is, and which images a node sees.

    train 1 → forward 1 → train 2 → forward 2 → … → train L → train head → negatives
       ↑ labels      ↑ labels                                              ↓ labels of the node's next chapter

A round is a chapter, or one minibatch. Where it is a minibatch, labels are made in the last round of a chapter only,
for all nodes.
"""

from __future__ import annotations

import numpy as np

from layerline.schedules.pattern import Input, Step, repeat
from layerline.schedules.plan import Action, Carries, Column, Plan
from layerline.schedules.work import Work


def ring(
    work: Work, order: Column, *, schedule: str, replicas: int = 1, shards: int = 1, shard: Column | None = None
) -> Plan:
    """Round r on the nodes `order[r] · replicas` and the following `replicas` − 1, each on a shard of its own.

    Replicas of a block are averaged, in the order of their nodes, when the next round begins to train it. `shard`:
    the shard of every round, where there are no replicas.
    """
    since = _into_chapter(work, order, shards) if work.minibatches else _chapters_since(order)
    steps: list[Step] = []
    for replica in range(replicas):
        steps += _round(work, len(steps), order * replicas + replica, replica if shard is None else shard, since)
    size = len(steps) // replicas
    for at, step in enumerate(steps):
        if step.action == Action.TRAIN:
            step.inputs[:0] = [Input(at % size + r * size, Carries.STATE, 1) for r in range(replicas)]
    return repeat(steps, schedule=schedule, work=work, shards=shards)


def _round(work: Work, begin: int, node: Column, shard: int | Column, since: Column) -> list[Step]:
    """The steps of a round; the first will have the number `begin`. `since`: rounds since its labels were made."""
    steps: list[Step] = []
    trained: list[int] = []
    before: list[Input] = []  # what a block learns from
    if work.judged:
        last = begin + 2 * work.blocks - 1 + work.head
        before = [Input(last, Carries.LABELS, since)]
    for block in range(work.blocks):
        trained.append(begin + len(steps))
        steps.append(Step(Action.TRAIN, block, node, list(before), shard))
        if block + 1 < work.blocks:
            weights = Input(trained[-1], Carries.WEIGHTS)
            steps.append(Step(Action.FORWARD, block, node, [weights, *before], shard))
            before = [Input(begin + len(steps) - 1, Carries.OUTPUTS)]
    if work.head:
        steps.append(Step(Action.TRAIN, work.blocks, node, _weights(trained), shard))
        trained.append(begin + len(steps) - 1)
    if work.judged:
        steps.append(Step(Action.NEGATIVES, 0, node, _weights(trained), shard))
    return steps


def _weights(trained: list[int]) -> list[Input]:
    return [Input(step, Carries.WEIGHTS) for step in trained]


def _into_chapter(work: Work, order: Column, shards: int) -> Column:
    """How many rounds ago the chapter before ended, for every round."""
    return np.arange(len(order), dtype=np.int32) % np.int32(work.rounds(shards) // work.chapters) + 1


def _chapters_since(order: Column) -> Column:
    """How many chapters ago the node of each chapter had its last one; more than there were, if it had none."""
    chapters = np.arange(len(order), dtype=np.int32)
    by_node = np.argsort(order, kind="stable")
    since = np.empty_like(chapters)
    gap = np.diff(chapters[by_node], prepend=np.int32(0))
    first = np.diff(order[by_node], prepend=np.int32(-1)) != 0
    since[by_node] = np.where(first, chapters[by_node] + 1, gap)
    return since
