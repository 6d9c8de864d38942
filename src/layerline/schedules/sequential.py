"""Sequential: one node does it all (PFF, arXiv 2404.08573, N = 1). Three blocks, two chapters:

          1    2    3    4    5    6
node 1  1.1  2.1  3.1  1.2  2.2  3.2        2.1: block 2 for chapter 1
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from layerline.schedules.base import BaseSchedule
from layerline.schedules.plan import Plan
from layerline.schedules.ring import ring
from layerline.schedules.work import Work


class Sequential(BaseSchedule):
    """One node does it all (PFF: Sequential)."""

    kind: Literal["sequential"] = "sequential"

    def plan(self, work: Work) -> Plan:
        return ring(work, np.zeros(work.chapters, np.int32), schedule=self.kind)

    def why_unused(self, work: Work) -> str:
        return "the sequential schedule runs on one node"
