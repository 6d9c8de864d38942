"""Is a plan one that can be carried out, and does each row get exactly what it needs?

Problem: a wrong edge would train on the wrong version of a block and still look well. Solution: every rule of what a
plan means is checked on the columns at once, and the first row that breaks one is named.

1. Every row is a possible one, and none is there twice; every stage is trained in every round, by all its replicas.
2. Every input comes from an earlier row, of the kind, stage, round and shard that it has to be; labels come from the
   end of an earlier chapter.
3. Every row has all its inputs, each once: the state of all replicas after the round before, the weights and outputs
   of its own round, all parts of one set of labels.
4. A node never goes back to an earlier round of the same work.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from layerline.errors import LayerlineError
from layerline.schedules.plan import STREAM, Action, Carries, Plan

Mask = NDArray[np.bool_]
Numbers = NDArray[np.int64]

_CARRIED = (Carries.STATE, Carries.WEIGHTS, Carries.OUTPUTS, Carries.LABELS)


def validate(plan: Plan) -> None:
    """Raises LayerlineError naming the first row that breaks a rule."""
    _rows(plan)
    _edges(plan)
    _complete(plan)
    _forward_in_time(plan)


def refuse(plan: Plan, wrong: Mask, why: str, rows: NDArray[np.integer] | None = None) -> None:
    """LayerlineError if anything is wrong; `rows`: which row each entry is about."""
    if wrong.any():
        at = int(wrong.argmax())
        row = at if rows is None else int(rows[at])
        raise LayerlineError(f"the {plan.schedule} plan is wrong: {plan.name(row)} {why}")


def key_of(*columns: tuple[NDArray[np.integer], int]) -> Numbers:
    """Columns as the digits of one number; each with how many values it has."""
    key = np.zeros(len(columns[0][0]), np.int64)
    for column, size in columns:
        key *= size
        key += column
    return key


def twice(key: Numbers) -> Mask:
    """Entries whose key occurred before."""
    order = np.argsort(key, kind="stable")
    again = np.zeros(len(key), bool)
    again[order[1:]] = key[order[1:]] == key[order[:-1]]
    return again


def _rows(plan: Plan) -> None:
    """1."""
    train, negatives = plan.action == Action.TRAIN, plan.action == Action.NEGATIVES
    refuse(plan, np.isin(plan.action, STREAM), "belongs to a stream")
    most = np.where(train, plan.stages, np.where(negatives, 1, plan.blocks - 1))
    refuse(plan, (plan.stage < 0) | (plan.stage >= most), "has no such stage to work on")
    refuse(plan, (plan.round < 0) | (plan.round >= plan.rounds), f"is in none of {plan.rounds} {_rounds(plan)}")
    refuse(plan, (plan.node < 0) | (plan.node >= plan.nodes), f"is on none of {plan.nodes} nodes")
    parts = np.where(negatives, plan.parts, 1) * plan.shards
    refuse(plan, (plan.shard < 0) | (plan.shard >= parts), "works on a shard that does not exist")
    key = key_of((plan.action, 3), (plan.stage, plan.stages), (plan.round, plan.rounds), (plan.shard, int(parts.max())))
    refuse(
        plan,
        twice(key_of((key, 1), (np.where(plan.action == Action.FORWARD, plan.node, 0), plan.nodes))),
        "is there twice",
    )
    counts = np.bincount(_slot(plan)[train], minlength=plan.stages * plan.rounds)
    missing = np.flatnonzero(counts != max(1, counts.max(initial=0)))
    if missing.size:
        number, stage = divmod(int(missing[0]), plan.stages)
        what = f"block {stage + 1}" if stage < plan.blocks else "the head"
        when = f"{'minibatch' if plan.by_batch else 'chapter'} {number + 1}"
        raise LayerlineError(f"the {plan.schedule} plan is wrong: it does not train {what} in {when}")


def _rounds(plan: Plan) -> str:
    return "minibatches" if plan.by_batch else "chapters"


def _slot(plan: Plan) -> Numbers:
    return key_of((plan.round, plan.rounds), (plan.stage, plan.stages))


def _edges(plan: Plan) -> None:
    """2."""
    source, target, carries = plan.source, plan.target, plan.carries
    refuse(plan, (source < 0) | (source >= target), "needs a row that is not before it", target)
    made, used = plan.action[source], plan.action[target]
    ago = plan.round[target] - plan.round[source]
    up = plan.stage[target] - plan.stage[source]
    whole = (used == Action.NEGATIVES) | (plan.stage[target] == plan.blocks)  # looks at all blocks
    part_of = np.where(used == Action.NEGATIVES, plan.shard[target] // plan.parts, plan.shard[target])
    shard = np.where(made == Action.NEGATIVES, plan.shard[source] // plan.parts, plan.shard[source])
    same = (shard == part_of) & (ago == 0)
    state = (made == Action.TRAIN) & (used == Action.TRAIN) & (up == 0) & (ago == 1)
    weights = (
        (made == Action.TRAIN) & same & np.where(whole, used != Action.FORWARD, (used == Action.FORWARD) & (up == 0))
    )
    outputs = (made == Action.FORWARD) & same & (up == 1) & ~whole & (plan.node[source] >= 0)
    labels = (
        (made == Action.NEGATIVES)
        & (shard == part_of)
        & (plan.chapter[target] > plan.chapter[source])
        & ((plan.round[source] + 1) % plan.rounds_per_chapter == 0)
        & (used != Action.NEGATIVES)
        & (plan.stage[target] == 0)
    )
    refuse(plan, ~np.isin(carries, _CARRIED), "has an input that only a stream has", target)
    for kind, right in zip(_CARRIED, (state, weights, outputs, labels), strict=True):
        wrong = (carries == kind) & ~right
        refuse(plan, wrong, f"has {kind.name.lower()} from a row that does not give it what it needs", target)


def _complete(plan: Plan) -> None:
    """3."""
    target, size = plan.target, len(plan)
    refuse(
        plan, twice(key_of((target, size), (plan.source, size), (plan.carries, 4))), "has the same input twice", target
    )
    state, weights, outputs, labels = (np.bincount(target[plan.carries == kind], minlength=size) for kind in _CARRIED)
    train, forward = plan.action == Action.TRAIN, plan.action == Action.FORWARD
    head = train & (plan.stage == plan.blocks)
    replicas = int(np.count_nonzero(train)) // (plan.stages * plan.rounds)
    refuse(plan, state != np.where(train & (plan.round > 0), replicas, 0), "has not the state it goes on from")
    wanted = np.where(head, plan.blocks, np.where(train, 0, np.where(forward, 1, plan.stages)))
    refuse(plan, weights != wanted, "has not the weights it needs")
    learns = (plan.stage > 0) & ~head & (plan.action != Action.NEGATIVES)
    refuse(plan, outputs != learns, "has not the outputs of the block before")
    refuse(plan, (labels != 0) & (labels != plan.parts), "has a part of its labels only")
    of = plan.carries == Carries.LABELS
    newest, oldest = np.zeros(size, np.int32), np.full(size, plan.rounds, np.int32)
    np.maximum.at(newest, target[of], plan.round[plan.source[of]])
    np.minimum.at(oldest, target[of], plan.round[plan.source[of]])
    refuse(plan, (labels > 0) & (newest != oldest), "mixes labels of several chapters")


def _forward_in_time(plan: Plan) -> None:
    """4."""
    key = key_of((plan.node, plan.nodes), (plan.action, 3), (plan.stage, plan.stages))
    order = np.argsort(key, kind="stable")
    same = key[order[1:]] == key[order[:-1]]
    back = same & (plan.round[order[1:]] < plan.round[order[:-1]])
    refuse(plan, back, "comes after a later chapter on its node", order[1:])
