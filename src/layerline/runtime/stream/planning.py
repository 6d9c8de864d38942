"""From a StreamRun and its network to the plan: the sizes of its blocks in numbers, and who has which.

Blocks are dealt out as the run says, else by the cost formula for an assumed machine, never by what was measured, so
every process of a run makes the same plan, and so does whoever resumes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from layerline.blocks.cost import layer_costs
from layerline.runtime.stream.model import StreamModel
from layerline.schedules.costs import ON_THE_WIRE, Machine, World
from layerline.schedules.deal import given_stages
from layerline.schedules.stream import Stream, deal_blocks
from layerline.schedules.stream_costs import BlockSize, StreamCosts, estimate_stream
from layerline.stream_run import StreamRun


def block_sizes(model: StreamModel) -> list[BlockSize]:
    """Each block of a model, with its head, in numbers."""
    half = 2 if model.run.precision == "bf16-mixed" else 1  # activations are bfloat16 then
    shape, sizes = model.encoder.input_shape, []
    for index, block in enumerate(model.blocks):
        assert isinstance(block, nn.Sequential)
        layers = layer_costs(block, shape, model.encoder.dtype if index == 0 else torch.float32)
        entered = 4 * math.prod(shape)
        shape, head = layers[-1].output_shape, model.head(index)
        on_top = layer_costs([head], shape)[0] if head is not None else None
        sizes.append(
            BlockSize(
                macs=sum(layer.macs for layer in layers),
                parameters=sum(layer.parameters for layer in layers),
                output_bytes=layers[-1].output_bytes // half,
                kept_bytes=(entered + sum(layer.output_bytes for layer in layers)) // half,
                head_macs=on_top.macs if on_top else 0,
                head_parameters=on_top.parameters if on_top else 0,
            )
        )
    return sizes


def costs_of(model: StreamModel, machine: Machine) -> StreamCosts:
    """Seconds and bytes of a microbatch in each block, by formula."""
    run = model.run
    examples, moments = run.batch_size / run.parts, run.optimizer.moments
    costs = estimate_stream(block_sizes(model), examples, machine, moments=moments, reach=model.reach)
    if not model.follows:
        return costs
    followed = [0] * model.reach.blocks
    for block, of in model.follows:
        followed[of] = sum(weight.nbytes for weight in model.watched(block))
    return replace(costs, followed=tuple(followed))


def stream_of(model: StreamModel) -> Stream:
    """Who has which blocks. UsageError for more nodes than blocks."""
    run, reach = model.run, model.reach
    owned = dealt(model, costs_of(model, Machine())) if run.owns is None else given(run.owns, reach.blocks, run.nodes)
    return Stream(reach=reach, owned=owned, microbatches=run.microbatches, window=run.window, follows=model.follows)


def dealt(model: StreamModel, costs: StreamCosts) -> tuple[range, ...]:
    """The blocks of each node, by these costs. UsageError for more nodes than blocks."""
    run, reach = model.run, model.reach
    weighed = [costs.of_step(reach, block, run.microbatches) for block in range(reach.blocks)]
    return deal_blocks(weighed, run.nodes, run.speeds)


def given(owns: Sequence[int], blocks: int, nodes: int) -> tuple[range, ...]:
    """The blocks of each node, as somebody wants them. UsageError where every block is not owned once."""
    return tuple(given_stages(owns, blocks, nodes, "blocks"))


def world_of(run: StreamRun, bandwidth: float, latency: float, speeds: tuple[float, ...] = ()) -> World:
    """Links and nodes; activations that are bfloat16 already take no less room in a codec of as many bits, and no codec
    makes gradients smaller than that."""
    half = 2 if run.precision == "bf16-mixed" else 1
    on_the_wire = ON_THE_WIRE[run.codec.kind]
    codec = half * (on_the_wire if run.boundary.bits is None else run.boundary.bits / 32)
    back = half * max(on_the_wire, ON_THE_WIRE["bf16"])
    return World(bandwidth=bandwidth, latency=latency, speeds=speeds, codec=min(1.0, codec), gradients=min(1.0, back))
