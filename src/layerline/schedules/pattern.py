"""A chapter's pattern, repeated: how schedules write their plans.

Problem: a schedule should be a few lines, and a million slots may not be made one by one. Solution: a schedule writes
the steps of one chapter, whose inputs are steps of the same chapter or of one some chapters ago; `repeat` lays the
pattern out for every chapter at once. Inputs from before the first chapter vanish.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from layerline.schedules.plan import Action, Carries, Column, Plan


@dataclass(frozen=True)
class Input:
    """An edge from step number `step` of the pattern, as it was `ago` chapters earlier (one number, or per chapter)."""

    step: int
    carries: Carries
    ago: int | Column = 0


@dataclass(frozen=True)
class Step:
    """A row of every chapter. `node`: one number, or per chapter."""

    action: Action
    stage: int
    node: int | Column
    inputs: list[Input] = field(default_factory=list)
    shard: int = 0


def repeat(
    pattern: Sequence[Step], *, schedule: str, blocks: int, head: bool, chapters: int, nodes: int, shards: int = 1
) -> Plan:
    """The plan of `chapters` repetitions, chapter by chapter. Negatives that nobody uses are left out."""
    size, every = len(pattern), np.arange(chapters, dtype=np.int32)
    action = np.tile(np.array([step.action for step in pattern], np.uint8), chapters)
    stage = np.tile(np.array([step.stage for step in pattern], np.int32), chapters)
    node = np.stack([np.broadcast_to(np.int32(step.node), chapters) for step in pattern], 1).ravel()
    shard = np.tile(np.array([step.shard for step in pattern], np.int32), chapters)

    edges = [(at, edge) for at, step in enumerate(pattern) for edge in step.inputs]
    then = np.stack([every - edge.ago for _, edge in edges], 1) if edges else np.zeros((chapters, 0), np.int32)
    begun = then >= 0
    target = (every[:, None] * size + np.array([at for at, _ in edges], np.int32))[begun]
    source = (then * size + np.array([edge.step for _, edge in edges], np.int32))[begun]
    carries = np.broadcast_to(np.array([edge.carries for _, edge in edges], np.uint8), then.shape)[begun]

    kept = action != Action.NEGATIVES
    kept[source] = True
    used = kept[target]
    row = np.cumsum(kept, dtype=np.int32) - 1  # a row's number when the unused ones are gone
    first = np.zeros(np.count_nonzero(kept) + 1, np.int64)
    np.cumsum(np.bincount(row[target[used]], minlength=len(first) - 1), out=first[1:])
    return Plan(
        schedule=schedule,
        blocks=blocks,
        head=head,
        chapters=chapters,
        nodes=nodes,
        shards=shards,
        action=action[kept],
        stage=stage[kept],
        chapter=np.repeat(every, size)[kept],
        node=node[kept],
        shard=shard[kept],
        first=first,
        source=row[source[used]],
        carries=carries[used],
    )
