"""Data-parallel backprop: every node has the whole network and a slice of each minibatch.

    node 1   1F0 1B0 1F1 1B1   1U        `2B1`: the copy of node 2, backward of its second microbatch
    node 2   2F0 2B0 2F1 2B1   2U        U waits for the gradients of all

A plan of a stream whose "blocks" are the copies. Gradients are summed in a ring, in which every node sends
2 (N − 1) / N times the bytes of the weights. The plan has a message from each node to each other one, N − 1 of
2 / N times the weights: as many bytes, fewer latencies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from layerline.schedules.pattern import Input, Step, repeat
from layerline.schedules.plan import Action, Carries, Plan
from layerline.schedules.stream import Mark
from layerline.schedules.stream_costs import StreamCosts
from layerline.schedules.stream_simulate import Floats
from layerline.schedules.work import Work

SCHEDULE = "ddp"
"""What such a plan is called."""


@dataclass(frozen=True, kw_only=True)
class Replicated:
    """Copies of a network of `blocks` blocks, each with so many microbatches of its slice."""

    blocks: int
    nodes: int
    microbatches: int
    name: str = SCHEDULE
    ahead: int = 2
    """Steps that a node may be ahead of another, at most."""

    @property
    def owned(self) -> tuple[range, ...]:
        """The blocks of each node: all of them."""
        return (range(self.blocks),) * self.nodes

    def order(self) -> list[Mark]:
        """One step."""
        rounds = range(self.microbatches)
        return [
            *(Mark(a, n, m) for m in rounds for a in (Action.FORWARD, Action.BACKWARD) for n in range(self.nodes)),
            *(Mark(Action.UPDATE, n) for n in range(self.nodes)),
        ]

    def plan(self, steps: int) -> Plan:
        """The plan of so many steps."""
        marks = self.order()
        place = {mark: at for at, mark in enumerate(marks)}
        pattern = [
            Step(mark.action, mark.block, mark.block, list(self._inputs(mark, place)), mark.microbatch)
            for mark in marks
        ]
        work = Work(blocks=self.nodes, chapters=steps, nodes=self.nodes)
        return repeat(pattern, schedule=self.name, work=work, shards=self.microbatches)

    def seconds(self, costs: StreamCosts) -> Floats:
        """What each row of a step takes on a node of speed 1. `costs`: of the copies, see `of_copies`."""
        takes = {
            Action.FORWARD: costs.forward,
            Action.BACKWARD: [
                a + b + c for a, b, c in zip(costs.own_loss, costs.to_input, costs.to_weights, strict=True)
            ],
            Action.UPDATE: costs.update,
        }
        return np.array([takes[mark.action][mark.block] for mark in self.order()])

    def _inputs(self, mark: Mark, place: dict[Mark, int]) -> Iterator[Input]:
        copy = mark.block
        match mark.action:
            case Action.FORWARD:
                yield Input(place[Mark(Action.UPDATE, copy)], Carries.WEIGHTS, 1)
            case Action.BACKWARD:
                yield Input(place[Mark(Action.FORWARD, copy, mark.microbatch)], Carries.OUTPUTS)
            case _:
                for other in range(self.nodes):  # a gradient has as many numbers as the weights
                    yield Input(place[Mark(Action.BACKWARD, other, self.microbatches - 1)], Carries.WEIGHTS)


def of_copies(costs: StreamCosts, nodes: int) -> StreamCosts:
    """Of copies of the whole network, from those of the blocks."""

    def summed(values: tuple[float, ...]) -> tuple[float, ...]:
        return (sum(values),) * nodes

    weights, moments, kept = sum(costs.weights), sum(costs.moments), sum(costs.kept)
    return StreamCosts(
        forward=summed(costs.forward),
        to_input=summed((0.0, *costs.to_input[1:])),
        to_weights=summed(costs.to_weights),
        own_loss=summed(costs.own_loss),
        update=summed(costs.update),
        outputs=(2 * weights // nodes,) * nodes,
        kept=(kept,) * nodes,
        weights=(weights,) * nodes,
        moments=(moments,) * nodes,
    )
