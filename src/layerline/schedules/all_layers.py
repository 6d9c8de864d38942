"""All-Layers: nodes take chapters in turn and hand every block on along the ring (PFF, arXiv 2404.08573, Figure 5).

Three blocks, three nodes, six chapters:

              1    2    3    4    5    6    7    8
    node 1  1.1  2.1  3.1  1.4  2.4  3.4               2.1: block 2 for chapter 1
    node 2       1.2  2.2  3.2  1.5  2.5  3.5
    node 3            1.3  2.3  3.3  1.6  2.6  3.6

A block's state (weights, and moments where they travel) goes to the node of the next chapter as soon as it is trained.
Each node makes its own negatives at the end of its chapter, so with N nodes they are N chapters old. Nodes of unequal
speed get more or fewer chapters, and none if the others would only wait for them. More nodes than stages make a grid:
chapter c on D nodes at once, each with a part of the data, averaged at the next chapter.

Per batch (`--exchange batch`) the picture is the same with minibatches for chapters, and the labels of a chapter are
those made at the end of the one before: what comes out is what one machine learns that trains every block, one after
the other, on each minibatch in turn.
"""

from __future__ import annotations

from typing import Literal

from layerline.schedules.base import BaseSchedule, grid_size
from layerline.schedules.deal import deal_chapters
from layerline.schedules.plan import Plan
from layerline.schedules.ring import ring
from layerline.schedules.work import Work


class AllLayers(BaseSchedule):
    """Nodes take chapters in turn, each all blocks (PFF: All Layers)."""

    kind: Literal["all-layers"] = "all-layers"

    @property
    def meets_per_batch(self) -> bool:
        return True

    def plan(self, work: Work) -> Plan:
        length, shards = grid_size(work)
        speeds = [min(work.speeds[n * shards : (n + 1) * shards]) for n in range(length)]
        return ring(work, deal_chapters(work, speeds, shards), schedule=self.kind, replicas=shards, shards=shards)

    def why_unused(self, work: Work) -> str:
        length, shards = grid_size(work)
        rounds = work.rounds(shards)
        if rounds < length:
            what = "minibatch" if work.minibatches else "chapter"
            return f"All-Layers gives every node a {what} of its own, and there are {rounds}"
        if length * shards < work.nodes:
            return (
                f"All-Layers uses as many nodes as there are stages ({work.stages}, the blocks and the softmax head "
                f"where there is one), or a whole multiple of that"
            )
        return "at its speed the others would only wait for it"
