"""What keeps a plan from being faster, in a sentence or two.

1. The links: with ideal ones it would end sooner.
2. One node that the others wait for: what it spends its time on, and what Single-Layer's remedies would bring.
3. Nothing but a beginning and an end: the pipeline fills and drains.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from layerline.schedules.base import BaseSchedule
from layerline.schedules.costs import Costs, World
from layerline.schedules.plan import Action
from layerline.schedules.simulate import Simulation, simulate, walk
from layerline.schedules.single_layer import SingleLayer
from layerline.schedules.work import Work

_WORTH_SAYING = 0.05  # a smaller part of the time is not worth a sentence


def limits(schedule: BaseSchedule, work: Work, costs: Costs, world: World, found: Simulation) -> str:
    """The sentences, for people."""
    said = []
    used = np.bincount(found.plan.node, minlength=found.plan.nodes) > 0
    if np.count_nonzero(used) == 1:
        return f"One node does it all: {_spent(found, int(used.argmax()))}."
    free = np.zeros(len(found.messages))
    ideal = float(walk(found.plan, found.messages, found.seconds, free, 0.0)[1].max())
    if ideal < (1 - _WORTH_SAYING) * found.makespan:
        said.append(
            f"Links hold it up: messages that cost nothing would bring {found.sequential / ideal:.2f}× instead of "
            f"{found.speedup:.2f}×."
        )
    busiest = int(found.busy.argmax())
    others = found.utilisation[used].mean()
    if found.utilisation[busiest] - others > _WORTH_SAYING:
        said.append(
            f"The others wait for node {busiest + 1}, which is busy {found.utilisation[busiest]:.0%} of the time: "
            f"{_spent(found, busiest)}."
        )
    elif not said and others < 1 - _WORTH_SAYING:
        said.append(
            f"No node is held up by another for long; {1 - others:.0%} of the time goes into filling "
            "and draining the pipeline."
        )
    elif not said:
        who = "All nodes are" if used.all() else "The nodes that have work are"
        said.append(f"{who} busy {others:.0%} of the time: only more or faster nodes would help.")
    said += _remedies(schedule, work, costs, world, found)
    return " ".join(said)


def _spent(found: Simulation, node: int) -> str:
    """What a node does in a chapter, in seconds: `9.6 s a chapter, of which 4.3 s forwarding …`."""
    plan = found.plan
    own = plan.node == node
    chapters = len(np.unique(plan.chapter[own & (plan.action == Action.TRAIN)])) or 1
    kinds = (Action.TRAIN, Action.FORWARD, Action.NEGATIVES)
    seconds = [float(found.seconds[own & (plan.action == action)].sum()) / chapters for action in kinds]
    blocks = len(np.unique(plan.stage[own & (plan.action == Action.FORWARD)]))
    words = (
        "training",
        f"bringing the set through {blocks} block{'s' * (blocks != 1)}",
        "ranking labels for negatives",
    )
    parts = [f"{s:.3g} s {what}" for s, what in zip(seconds, words, strict=True) if s > 0]
    return f"{sum(seconds):.3g} s a chapter, " + (f"of them {', '.join(parts)}" if len(parts) > 1 else "all training")


def _remedies(schedule: BaseSchedule, work: Work, costs: Costs, world: World, found: Simulation) -> list[str]:
    """Single-Layer: the settings that would bring most, if they bring something."""
    if not isinstance(schedule, SingleLayer):
        return []
    best, flags = found, ""
    for other in _other_settings(schedule, work):
        tried = simulate(other.plan(work), costs, world)
        if tried.makespan < best.makespan * (1 - 0.01):
            best = tried
            changed = [name for name in ("hand_over", "ranking") if getattr(other, name) != getattr(schedule, name)]
            flags = " ".join(f"--{name.replace('_', '-')} {getattr(other, name)}" for name in changed)
    if best is found:
        return []
    return [f"{flags} would give {best.speedup:.2f}× instead of {found.speedup:.2f}×."]


def _other_settings(schedule: SingleLayer, work: Work) -> list[SingleLayer]:
    """Single-Layer with its remedies. A delay and a deal that were asked for stay."""
    rankings: tuple[Literal["last", "shared"], ...] = ("last", "shared") if work.judged else (schedule.ranking,)
    hand_overs: tuple[Literal["weights", "activations"], ...] = ("weights", "activations")
    return [
        SingleLayer(hand_over=hand_over, ranking=ranking, delay=schedule.delay, owns=schedule.owns)
        for ranking in rankings
        for hand_over in hand_overs
        if (hand_over, ranking) != (schedule.hand_over, schedule.ranking)
    ]
