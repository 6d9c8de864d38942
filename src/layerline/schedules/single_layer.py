"""Single-Layer: each node owns blocks and trains them for every chapter (PFF, arXiv 2404.08573, Figure 4).

Three blocks, three nodes, three chapters:

              1    2    3    4    5
    node 1  1.1  1.2  1.3                 1.2: block 1 for chapter 2
    node 2       2.1  2.2  2.3
    node 3            3.1  3.2  3.3

A node takes the earlier blocks of the chapter, brings the set through them, and trains its own. Judged negatives are
made from a finished chapter and used a fixed number of chapters later: never a race, as in the paper, but part of the
plan. Fewer nodes than stages: each owns some, balanced. More: a grid, each stage on D nodes with a part of the data
each, averaged when the next chapter begins.

What limits the schedule as published are the forward passes that later nodes repeat, and the one node that ranks all
labels. `hand_over = "activations"` removes the first, `ranking = "shared"` spreads the second:

    slot         s                                    labels used in slot s by every node: made of chapter s − N − 1
    node n       train chapter s − n, then rank a part of the images for chapter s − N     (nodes from 0)
"""

from __future__ import annotations

from typing import Literal

from layerline.errors import UsageError
from layerline.schedules.base import BaseSchedule, grid_size
from layerline.schedules.deal import deal_images, deal_stages, given_stages, stage_costs
from layerline.schedules.owned import Owned
from layerline.schedules.plan import Plan
from layerline.schedules.work import Work


class SingleLayer(BaseSchedule):
    """Each node owns blocks and trains them for every chapter (PFF: Single Layer)."""

    kind: Literal["single-layer"] = "single-layer"
    hand_over: Literal["weights", "activations"] = "weights"
    """What a node gets of earlier blocks: their weights, to forward the set itself (paper), or their outputs."""
    ranking: Literal["last", "shared"] = "last"
    """Who makes judged negatives: the last node (paper), or every node for a part of the images."""
    delay: tuple[int, ...] | None = None
    """How many chapters before its own the judged negatives of each node were made; left out: N − n + 1 for node n of
    0 … N − 1, the fewest that nobody waits for. The paper takes them as they arrive, which is a race."""
    owns: tuple[int, ...] | None = None
    """How many stages (blocks, and the softmax head) each node owns, one node after the other; left out: dealt out by a
    cost formula, so that the slowest node is as fast as it can be."""

    def plan(self, work: Work) -> Plan:
        return plan_owned(work, self.hand_over, self.ranking, self.delay, self.kind, self.owns)

    def why_unused(self, work: Work) -> str:
        return why_unused_owned(work, "Single-Layer")


def plan_owned(
    work: Work,
    hand_over: str,
    ranking: str,
    delay: tuple[int, ...] | None,
    schedule: str,
    owns: tuple[int, ...] | None = None,
) -> Plan:
    """The plan of nodes that own stages; `Dff` is one of these, too."""
    length, shards = grid_size(work)
    speeds = [min(work.speeds[n * shards : (n + 1) * shards]) for n in range(length)]
    cost = stage_costs(work, recompute=hand_over == "weights")
    if work.judged and ranking == "last":
        cost[:, -1] += work.ranking
    groups = deal_stages(cost, speeds) if owns is None else given_stages(owns, work.stages, length)
    shares: tuple[float, ...] = (1.0,)
    rankers = [length - 1]
    if work.judged and ranking == "shared":
        loads = [cost[g.start, g.stop] / speed for g, speed in zip(groups, speeds, strict=True)]
        every = deal_images(loads, work.ranking, speeds)
        rankers = [node for node, share in enumerate(every) if share > 0]
        shares = tuple(every[node] for node in rankers)
    return Owned(
        work=work,
        groups=groups,
        shards=shards,
        shares=shares,
        rankers=rankers,
        activations=hand_over == "activations",
        delay=_delay(delay, length),
    ).plan(schedule)


def _delay(given: tuple[int, ...] | None, length: int) -> tuple[int, ...]:
    """Chapters between making and using judged negatives, per node (methods: N − n + g).

    g = 1: whoever makes them does so within its own slot, so a slot later everybody has them. One node alone has them
    at once.
    """
    if given is None:
        return tuple(length - node + 1 for node in range(length)) if length > 1 else (1,)
    if len(given) != length:
        raise UsageError(
            f"{len(given)} delays for {length} nodes that own blocks",
            hint=f"give one for each, like --delay {','.join(str(length - node + 1) for node in range(length))}",
        )
    if min(given) < 1:
        raise UsageError("negatives are at least 1 chapter old when they are used, got a delay of " + str(min(given)))
    return given


def why_unused_owned(work: Work, name: str) -> str:
    """Why nodes that own stages cannot be more."""
    return (
        f"{name} uses one node for every stage ({work.stages}, the blocks and the softmax head where there is one), "
        f"or a whole multiple of that"
    )
