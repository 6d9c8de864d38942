"""From a run with a method to its plan: who has which blocks, and what each node does in a step."""

from __future__ import annotations

from layerline.baselines.action_lists import action_lists
from layerline.errors import UsageError
from layerline.runtime.stream.model import StreamModel
from layerline.runtime.stream.planning import costs_of, given
from layerline.schedules.costs import Machine
from layerline.schedules.division import Division
from layerline.schedules.methods import LOOPS, stages_of
from layerline.schedules.pipelined import Pipelined
from layerline.schedules.replicated import Replicated
from layerline.schedules.stream import deal_blocks


def division_of(model: StreamModel) -> Division:
    """How the run's method divides its step. UsageError for more stages than blocks."""
    run, blocks = model.run, model.reach.blocks
    assert run.method is not None
    if run.method == "ddp":
        return Replicated(blocks=blocks, nodes=run.nodes, microbatches=run.microbatches)
    stages = stages_of(run.method, run.nodes)
    if run.nodes <= blocks < stages:
        fewer = f"choose --nodes {blocks // LOOPS}, or " if blocks >= 2 * LOOPS else ""
        raise UsageError(
            f"--method {run.method} puts {LOOPS} stages on every node: "
            f"{run.nodes} nodes make {stages}, of {blocks} blocks",
            hint=f"{fewer}cut the network finer: --cut layers",
        )
    costs = costs_of(model, Machine())
    weighed = [costs.of_step(model.reach, block, run.microbatches) for block in range(blocks)]
    owned = (
        deal_blocks(weighed, stages, run.speeds * (stages // run.nodes))
        if run.owns is None
        else given(run.owns, blocks, stages)
    )
    orders = action_lists(run.method, run.nodes, run.microbatches)
    return Pipelined(name=run.method, stages=owned, orders=orders, microbatches=run.microbatches)
