"""DFF: each node owns blocks and sends their outputs on (Deng et al. 2023, doi 10.1109/PRAI59366.2023.10332026).

node 1  1.1  1.2  1.3               Single-Layer with the outputs of the whole set as messages: at 60,000 images
node 2       2.1  2.2  2.3          and 2,000 units 960 MB in float32, where the block itself has 16 MB
node 3            3.1  3.2  3.3
"""

from __future__ import annotations

from typing import Literal

from layerline.schedules.base import BaseSchedule
from layerline.schedules.plan import Plan
from layerline.schedules.single_layer import plan_owned, why_unused_owned
from layerline.schedules.work import Work


class Dff(BaseSchedule):
    """Each node owns blocks; activations travel (DFF, Deng et al. 2023)."""

    kind: Literal["dff"] = "dff"
    batch: Literal["full", "mini"] = "full"
    """One step of the optimizer an epoch, on the whole set (DFF), or minibatches as everywhere else."""
    owns: tuple[int, ...] | None = None
    """How many stages (blocks, and the softmax head) each node owns, one node after the other; left out: dealt out by a
    cost formula, so that the slowest node is as fast as it can be."""

    def plan(self, work: Work) -> Plan:
        return plan_owned(work, "activations", "last", None, self.kind, self.owns)

    def why_unused(self, work: Work) -> str:
        return why_unused_owned(work, "DFF")
