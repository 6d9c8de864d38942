"""From a run with a method to its plan: who has which blocks, and what each node does in a step."""

from __future__ import annotations

from layerline.baselines.action_lists import action_lists
from layerline.errors import UsageError
from layerline.runtime.stream.model import StreamModel
from layerline.runtime.stream.planning import costs_of
from layerline.schedules.costs import Machine
from layerline.schedules.methods import LOOPS, stages_of
from layerline.schedules.pipelined import Pipelined, of_stages
from layerline.schedules.replicated import Replicated, of_copies
from layerline.schedules.stream import deal_blocks
from layerline.schedules.stream_costs import StreamCosts

Division = Pipelined | Replicated
"""How a method divides a step among nodes."""


def division_of(model: StreamModel) -> Division:
    """How the run's method divides its step. UsageError for more stages than blocks."""
    run, blocks = model.run, model.reach.blocks
    assert run.method is not None
    if run.method == "ddp":
        return Replicated(blocks=blocks, nodes=run.nodes, microbatches=run.microbatches)
    stages = stages_of(run.method, run.nodes)
    if run.nodes <= blocks < stages:
        raise UsageError(
            f"--method {run.method} puts {LOOPS} stages on every node: {run.nodes} nodes make {stages}, and the network "
            f"has {blocks} block{'s' * (blocks > 1)}",
            hint=f"choose --nodes {blocks // LOOPS or 1}, or cut the network finer: --cut layers",
        )
    costs = costs_of(model, Machine())
    weighed = [costs.of_step(model.reach, block, run.microbatches) for block in range(blocks)]
    owned = deal_blocks(weighed, stages, run.speeds * (stages // run.nodes))
    orders = action_lists(run.method, run.nodes, run.microbatches)
    return Pipelined(name=run.method, stages=owned, orders=orders, microbatches=run.microbatches)


def costs_in(division: Division, costs: StreamCosts) -> StreamCosts:
    """Of the stages, or of the copies, from those of the blocks."""
    if isinstance(division, Replicated):
        return of_copies(costs, division.nodes)
    return of_stages(costs, division.stages)
