"""Is a stream's plan one that can be carried out, and does each row get exactly what it needs?

1. Every step has each forward, each gradient that the reach asks for, and each update, once; a block stays on its node.
2. Every input comes from an earlier row, of the kind, block, microbatch, loss and step that it has to be.
3. Every row has all its inputs, each once.
4. A node never goes back to an earlier step.
5. No queue between two nodes grows: gradients or leave to go on come back over every boundary, so that a node is never
   more microbatches ahead of the next one than the window, or where gradients come back than there are nodes to a loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from layerline.schedules.plan import Action, Carries, Plan
from layerline.schedules.reach import Reach
from layerline.schedules.stream import WINDOW, loss_of, microbatch_of
from layerline.schedules.validate import key_of, refuse, twice


def validate_stream(
    plan: Plan, reach: Reach, window: int = WINDOW, takers: Mapping[int, int] = MappingProxyType({})
) -> None:
    """Raises LayerlineError naming the first row that breaks a rule.

    `takers`: blocks before whose own loss the weights of another come.
    """
    _rows(plan, reach)
    _edges(plan, window, takers)
    _complete(plan, reach, takers)
    _forward_in_time(plan)
    _bounded(plan, reach, window)


def _rows(plan: Plan, reach: Reach) -> None:
    """1."""
    known = np.isin(plan.action, (Action.FORWARD, Action.BACKWARD, Action.UPDATE))
    refuse(plan, ~known, "is no row of a stream")
    refuse(plan, (plan.stage < 0) | (plan.stage >= plan.blocks), "has no such block")
    refuse(plan, (plan.chapter < 0) | (plan.chapter >= plan.chapters), f"is in none of {plan.chapters} steps")
    refuse(plan, (plan.node < 0) | (plan.node >= plan.nodes), f"is on none of {plan.nodes} nodes")
    back = plan.action == Action.BACKWARD
    at = np.zeros((plan.blocks, 2 * plan.blocks), bool)
    for block in range(plan.blocks):
        at[block, list(reach.at(block))] = True
    refuse(plan, (plan.shard < 0) | (plan.shard >= plan.shards * np.where(back, plan.blocks, 1)), "has no such part")
    refuse(plan, back & ~at[plan.stage, loss_of(plan)], "has a gradient that does not come there")
    whose = np.zeros(plan.blocks, np.int32)
    whose[plan.stage] = plan.node
    refuse(plan, plan.node != whose[plan.stage], "is not on its block's node")
    key = key_of(
        (plan.chapter, plan.chapters),
        (plan.action, len(Action)),
        (plan.stage, plan.blocks),
        (plan.shard, plan.shards * plan.blocks),
    )
    refuse(plan, twice(key), "is there twice")
    wanted = plan.shards * (plan.blocks + int(at.sum())) + plan.blocks
    counts = np.bincount(plan.chapter, minlength=plan.chapters)
    short = np.zeros(len(plan), bool)
    short[np.flatnonzero(counts[plan.chapter] != wanted)[:1]] = True
    refuse(plan, short, f"is in a step of other than {wanted} rows")


def _edges(plan: Plan, window: int, takers: Mapping[int, int]) -> None:
    """2."""
    source, target, carries = plan.source, plan.target, plan.carries
    refuse(plan, (source < 0) | (source >= target), "needs a row that is not before it", target)
    made, used = plan.action[source], plan.action[target]
    forward, backward, update = (used == kind for kind in (Action.FORWARD, Action.BACKWARD, Action.UPDATE))
    ago, up = plan.chapter[target] - plan.chapter[source], plan.stage[target] - plan.stage[source]
    microbatch, loss = microbatch_of(plan), loss_of(plan)
    part, now = microbatch[target] == microbatch[source], ago == 0
    outputs = (made == Action.FORWARD) & now & part & ((forward & (up == 1)) | (backward & (up == 0)))
    whose = np.arange(plan.blocks)
    whose[list(takers)] = list(takers.values())
    stage = plan.stage[target]
    uses = np.where(forward, stage, whose[stage])
    head = backward & (loss[target] == stage) & (uses != stage)
    weights = (made == Action.UPDATE) & (forward | head) & (plan.stage[source] == uses) & (ago == 1)
    passed = backward & (up == -1) & part & (loss[target] == loss[source])
    gradients = (made == Action.BACKWARD) & now & (passed | (update & (up == 0)))
    later = ago * plan.shards + microbatch[target] - microbatch[source]
    turn = (made == Action.FORWARD) & forward & (up == -1) & (later == window)
    allowed = {Carries.OUTPUTS: outputs, Carries.WEIGHTS: weights, Carries.GRADIENTS: gradients, Carries.TURN: turn}
    refuse(plan, ~np.isin(carries, list(allowed)), "has an input that no row of a stream takes", target)
    for kind, right in allowed.items():
        wrong = (carries == kind) & ~right
        refuse(plan, wrong, f"has {kind.name.lower()} from a row that does not give it what it needs", target)


def _complete(plan: Plan, reach: Reach, takers: Mapping[int, int]) -> None:
    """3."""
    target, size = plan.target, len(plan)
    key = key_of((target, size), (plan.source, size), (plan.carries, len(Carries)))
    refuse(plan, twice(key), "has the same input twice", target)
    kinds = (Carries.OUTPUTS, Carries.WEIGHTS, Carries.GRADIENTS)
    outputs, weights, gradients = (np.bincount(target[plan.carries == kind], minlength=size) for kind in kinds)
    forward, backward = plan.action == Action.FORWARD, plan.action == Action.BACKWARD
    refuse(plan, outputs != (backward | (forward & (plan.stage > 0))), "has not the outputs it needs")
    takes = backward & (loss_of(plan) == plan.stage) & (microbatch_of(plan) == 0) & np.isin(plan.stage, list(takers))
    refuse(plan, weights != ((forward | takes) & (plan.chapter > 0)), "has not the weights it needs")
    all_of = np.array([plan.shards * len(reach.at(block)) for block in range(plan.blocks)])
    wanted = np.where(forward, 0, np.where(backward, loss_of(plan) > plan.stage, all_of[plan.stage]))
    refuse(plan, gradients != wanted, "has not the gradients it needs")


def _forward_in_time(plan: Plan) -> None:
    """4."""
    order = np.argsort(plan.node, kind="stable")
    same = plan.node[order[1:]] == plan.node[order[:-1]]
    back = same & (plan.chapter[order[1:]] < plan.chapter[order[:-1]])
    refuse(plan, back, "comes after a later step on its node", order[1:])


def _bounded(plan: Plan, reach: Reach, window: int) -> None:
    """5."""
    number = plan.chapter.astype(np.int64) * plan.shards + microbatch_of(plan)
    place = np.zeros(plan.blocks, np.int64)
    place[plan.stage] = plan.node
    down = plan.node[plan.source] == plan.node[plan.target] + 1
    heard = np.full(len(plan), -1, np.int64)  # the latest microbatch that the next node is known to have
    np.maximum.at(heard, plan.target[down], number[plan.source[down]])
    up = np.unique(plan.source[(plan.carries == Carries.OUTPUTS) & (plan.node[plan.source] < plan.node[plan.target])])
    for node in range(plan.nodes - 1):
        own = np.flatnonzero(plan.node == node)
        heard[own] = np.maximum.accumulate(heard[own])
        losses = reach.crossing(int(np.flatnonzero(place == node).max(initial=-1)) + 1)
        most = max(window, int(place[min(losses)]) - node + 1) if losses else window
        sends = np.zeros(len(plan), bool)
        sends[up[plan.node[up] == node]] = True
        refuse(plan, sends & (number - heard > most), f"is more than {most} microbatches ahead of the next node")
