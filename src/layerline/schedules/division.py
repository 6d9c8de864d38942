"""How a method of PyTorch's divides a step among nodes, as a plan that is carried out in thought like any other."""

from __future__ import annotations

from layerline.schedules.costs import World
from layerline.schedules.pipelined import Pipelined, of_stages
from layerline.schedules.replicated import Replicated, of_copies
from layerline.schedules.stream_costs import StreamCosts
from layerline.schedules.stream_simulate import StreamSimulation, simulate_stream

Division = Pipelined | Replicated
"""In stages, or in copies."""


def costs_in(division: Division, costs: StreamCosts) -> StreamCosts:
    """Of the stages, or of the copies, from those of the blocks."""
    if isinstance(division, Replicated):
        return of_copies(costs, division.nodes)
    return of_stages(costs, division.stages)


def simulate_method(division: Division, costs: StreamCosts, world: World, steps: int) -> StreamSimulation:
    """`costs`: of a microbatch in each block."""
    own = costs_in(division, costs)
    return simulate_stream(division, own, world, steps, measured=division.seconds(own))
