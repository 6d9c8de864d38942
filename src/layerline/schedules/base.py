"""What a schedule is: frozen settings that turn work into a plan."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from layerline.schedules.plan import Plan
from layerline.schedules.work import Work
from layerline.settings import Settings


class BaseSchedule(Settings):
    """Who trains what, when, from whose results."""

    @property
    def meets_per_batch(self) -> bool:
        """Whether its nodes can exchange after every minibatch."""
        return False

    @property
    def described(self) -> str:
        """What it is, for a message."""
        return f"the {type(self).model_fields['kind'].default} schedule"

    @abstractmethod
    def plan(self, work: Work) -> Plan:
        """The plan for this work: a pure function. Nodes that it cannot use have no rows in it."""

    @abstractmethod
    def why_unused(self, work: Work) -> str:
        """Why it cannot use more nodes than it does, for a message."""


def unused_nodes(plan: Plan) -> tuple[int, ...]:
    """Nodes that have nothing to do in a plan, counted from 0. `plan` warns of them, `train` refuses them."""
    return tuple(np.setdiff1d(np.arange(plan.nodes), plan.node).tolist())


def named_nodes(nodes: tuple[int, ...]) -> str:
    """Nodes in words, counted from 1: `node 5`, `nodes 5 and 6`, `nodes 5 to 9`."""
    numbers = [node + 1 for node in nodes]
    if len(numbers) == 1:
        return f"node {numbers[0]}"
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"nodes {numbers[0]} to {numbers[-1]}"
    return f"nodes {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"


def grid_size(work: Work) -> tuple[int, int]:
    """The block × data grid of the nodes: columns of stages, and shards. One shard unless nodes outnumber stages."""
    return min(work.nodes, work.stages), max(1, work.nodes // work.stages)
