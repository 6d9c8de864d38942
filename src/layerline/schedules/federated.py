"""Federated: All-Layers where each node trains on its own, private images; only weights travel (PFF §4.3).

    relay (the paper)                          average
              1    2    3    4    5    6                 1    2    3    4
    node 1  1.1  2.1  1.3  2.3                 node 1  1.1  2.1  1.2  2.2
    node 2       1.2  2.2  1.4  2.4            node 2  1.1  2.1  1.2  2.2

Relay: chapters go round a ring, and a chapter has only seen its node's images. Average: every node trains every
chapter, and a block's copies are averaged, in the order of the nodes, when the next chapter begins; a copy counts as
much as its node has examples (FedAvg: McMahan et al., arXiv 1602.05629), which the plan need not know. Average per
batch (`--exchange batch`): the same with minibatches for chapters, which is data-parallel local learning.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from layerline.schedules.base import BaseSchedule
from layerline.schedules.deal import deal_chapters
from layerline.schedules.plan import Plan
from layerline.schedules.ring import ring
from layerline.schedules.work import Work


class Federated(BaseSchedule):
    """All-Layers on private data: images never leave their node (PFF: Federated)."""

    kind: Literal["federated"] = "federated"
    average: bool = False
    """Every node trains every chapter and blocks are averaged; else blocks are handed along the ring (paper)."""
    mean: Literal["examples", "equal"] = "examples"
    """How much a node's copy counts in an average: as much as the node has examples (FedAvg), or as any other."""

    @property
    def meets_per_batch(self) -> bool:
        return self.average

    @property
    def described(self) -> str:
        return super().described if self.average else "a federated relay"

    def plan(self, work: Work) -> Plan:
        if self.average:
            once = np.zeros(work.rounds(work.nodes), np.int32)
            return ring(work, once, schedule=self.kind, replicas=work.nodes, shards=work.nodes)
        order = deal_chapters(work, work.speeds)
        return ring(work, order, schedule=self.kind, shards=work.nodes, shard=order)

    def why_unused(self, work: Work) -> str:
        if work.chapters < work.nodes:
            return f"a ring relay gives every node a chapter of its own, and there are {work.chapters}"
        return "at its speed the others would only wait for it"
