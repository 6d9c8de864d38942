"""Pipelined backprop over nodes: the plan of a step, from the lists of what every node does one after the other.

The lists are somebody else's (PyTorch's, see `baselines.action_lists`), and say nothing of who waits for whom. Four
microbatches on two nodes, one stage each, `1I0` and `1W0` the halves of `1B0`:

    1F1B                                      zero-bubble
    1F0 1F1         1B0 1F2     1B1 …         1F0 1F1         1I0 1F2     1W0 …
        2F0 2B0 2F1     2B1 2F2     2B2 …         2F0 2I0 2F1     …

The plan is the table of a stream (see `stream`) whose blocks are stages. Its edges:

    forward k, m            the outputs of forward k − 1, m; the weights of update k, a step ago
    backward k, m           its own forward's outputs; the gradient of backward (or input gradient) k + 1, m
    weight gradient k, m    its own forward's outputs; the input gradient k, m
    update k                everything that adds to its gradients

Rows of all nodes are put in one list slot by slot, as they become ready, which any single process could carry out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np

from layerline.errors import LayerlineError
from layerline.schedules.pattern import Input, Step, repeat
from layerline.schedules.plan import Action, Carries, Plan
from layerline.schedules.stream import Mark
from layerline.schedules.stream_costs import StreamCosts
from layerline.schedules.stream_simulate import Floats
from layerline.schedules.work import Work

Number = TypeVar("Number", int, float)

_DOWN = (Action.BACKWARD, Action.INPUT_GRADIENT)
"""Rows whose gradient goes on to the stage below."""
_TO_WEIGHTS = (Action.BACKWARD, Action.WEIGHT_GRADIENT)
"""Rows that add to the gradients of a stage's weights."""


@dataclass(frozen=True, kw_only=True)
class Pipelined:
    """A schedule of pipelined backprop. `orders`: what each node does in a step; a mark's `block` is a stage."""

    name: str
    stages: tuple[range, ...]
    """The blocks of each stage."""
    orders: tuple[tuple[Mark, ...], ...]
    microbatches: int
    ahead: int = 2
    """Steps that a node may be ahead of the next one, at most."""

    @property
    def nodes(self) -> int:
        """Logical nodes."""
        return len(self.orders)

    @cached_property
    def places(self) -> tuple[int, ...]:
        """The node of each stage."""
        found = {mark.block: node for node, order in enumerate(self.orders) for mark in order}
        return tuple(found[stage] for stage in range(len(self.stages)))

    @property
    def owned(self) -> tuple[tuple[int, ...], ...]:
        """The blocks of each node."""
        return tuple(
            tuple(block for stage in self.stages_of(node) for block in self.stages[stage]) for node in range(self.nodes)
        )

    def stages_of(self, node: int) -> list[int]:
        """The stages of a node."""
        return [stage for stage, place in enumerate(self.places) if place == node]

    @cached_property
    def _rows(self) -> list[Mark]:
        """One step, slot by slot. LayerlineError where the lists wait for each other for ever."""
        left = [deque([*order, *self._updates(node)]) for node, order in enumerate(self.orders)]
        rows: dict[Mark, None] = {}
        while any(left):
            ready = [node for node, marks in enumerate(left) if marks and self._needs(marks[0]) <= rows.keys()]
            if not ready:
                raise LayerlineError(f"the lists of {self.name} wait for each other after {len(rows)} rows")
            rows |= dict.fromkeys(left[node].popleft() for node in ready)
        return list(rows)

    def order(self) -> list[Mark]:
        """One step, in an order that any single process could carry out."""
        return self._rows

    def pattern(self) -> list[Step]:
        """The rows of one step, in that order, with their inputs."""
        place = {mark: at for at, mark in enumerate(self._rows)}
        return [
            Step(
                action=mark.action,
                stage=mark.block,
                node=self.places[mark.block],
                inputs=list(self._inputs(mark, place)),
                shard=mark.microbatch,
            )
            for mark in self._rows
        ]

    def plan(self, steps: int) -> Plan:
        """The plan of so many steps."""
        work = Work(blocks=len(self.stages), chapters=steps, nodes=self.nodes)
        return repeat(self.pattern(), schedule=self.name, work=work, shards=self.microbatches)

    def seconds(self, costs: StreamCosts) -> Floats:
        """What each row of a step takes on a node of speed 1. `costs`: of the stages, see `of_stages`."""
        return np.array([_seconds(mark, costs) for mark in self._rows])

    def _updates(self, node: int) -> list[Mark]:
        return [Mark(Action.UPDATE, stage) for stage in self.stages_of(node)]

    def _needs(self, mark: Mark) -> set[Mark]:
        """The rows of the same step that come before."""
        return {source for source, _ in self._sources(mark)}

    def _inputs(self, mark: Mark, place: dict[Mark, int]) -> Iterator[Input]:
        for source, carries in self._sources(mark):
            yield Input(place[source], carries)
        if mark.action == Action.FORWARD:
            yield Input(place[Mark(Action.UPDATE, mark.block)], Carries.WEIGHTS, 1)

    def _sources(self, mark: Mark) -> Iterator[tuple[Mark, Carries]]:
        """What a row takes of its own step, and from which rows."""
        stage, m = mark.block, mark.microbatch
        match mark.action:
            case Action.FORWARD:
                if stage:
                    yield Mark(Action.FORWARD, stage - 1, m), Carries.OUTPUTS
            case Action.UPDATE:
                for other in self._of_stage[stage]:
                    if other.action in _TO_WEIGHTS:
                        yield other, Carries.GRADIENTS
            case action:
                yield Mark(Action.FORWARD, stage, m), Carries.OUTPUTS
                if action == Action.WEIGHT_GRADIENT:
                    yield Mark(Action.INPUT_GRADIENT, stage, m), Carries.GRADIENTS
                elif stage + 1 < len(self.stages):
                    above = next(o for o in self._of_stage[stage + 1] if o.action in _DOWN and o.microbatch == m)
                    yield above, Carries.GRADIENTS

    @cached_property
    def _of_stage(self) -> list[list[Mark]]:
        return [[m for order in self.orders for m in order if m.block == stage] for stage in range(len(self.stages))]


def of_stages(costs: StreamCosts, stages: Sequence[range]) -> StreamCosts:
    """Of stages of several blocks each, from those of the blocks."""

    def summed(values: Sequence[Number]) -> tuple[Number, ...]:
        return tuple(sum(values[block] for block in blocks) for blocks in stages)

    return StreamCosts(
        forward=summed(costs.forward),
        to_input=summed((0.0, *costs.to_input[1:])),  # nobody asks for the gradient of the image
        to_weights=summed(costs.to_weights),
        own_loss=summed(costs.own_loss),
        update=summed(costs.update),
        outputs=tuple(costs.outputs[blocks.stop - 1] for blocks in stages),
        kept=summed(costs.kept),
        weights=summed(costs.weights),
        moments=summed(costs.moments),
    )


def _seconds(mark: Mark, costs: StreamCosts) -> float:
    """PyTorch's first stage has no input gradient to begin with: all its backward is one row."""
    stage = mark.block
    down, weights = costs.own_loss[stage] + costs.to_input[stage], costs.to_weights[stage]
    match mark.action:
        case Action.FORWARD:
            return costs.forward[stage]
        case Action.BACKWARD:
            return down + weights
        case Action.INPUT_GRADIENT:
            return down if stage else 0.0
        case Action.WEIGHT_GRADIENT:
            return weights if stage else down + weights
        case _:
            return costs.update[stage]
