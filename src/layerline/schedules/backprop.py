"""What backprop would take on the same nodes, by formula: GPipe, 1F1B, and data-parallel training.

Backprop is another learning rule: its gradient crosses all blocks, so a step is forward, input gradient and weight
gradient on one view of each image, and nodes meet in every minibatch instead of every chapter.

    data-parallel    products / N + update + ring all-reduce of the gradients        2 (N−1)/N · W bytes each
    GPipe, 1F1B      (m + p − 1) · slowest stage's microbatch + update               bubble (p−1)/(m+p−1)
                     activations and their gradients cross p − 1 boundaries; GPipe holds all m microbatches of
                     activations, 1F1B no more than p

m = 4 p microbatches, or as many as the minibatch has images. Smaller matrices are not counted as slower.
"""

from __future__ import annotations

import numpy as np

from layerline.schedules.costs import ADAM_BYTES, CAST_BYTES, Machine, Sizes, World
from layerline.schedules.deal import deal_stages
from layerline.schedules.way import Way

_RULE = "another learning rule"


def backprop(sizes: Sizes, machine: Machine, world: World, nodes: int, chapters: int) -> list[Way]:
    """The ways there are, for as many epochs as the plan has."""
    step = _Step(sizes, machine)
    steps = chapters * sizes.epochs * -(-sizes.examples // sizes.batch)
    speeds = world.speeds or (1.0,) * nodes
    alone = float(step.products.sum() + step.update.sum()) * steps
    return [
        _data_parallel(step, world, speeds, steps, alone),
        *(_pipeline(name, step, world, speeds, steps, alone) for name in ("GPipe", "1F1B")),
    ]


class _Step:
    """One minibatch of backprop, per block: seconds of products and update, parameters, bytes of activations."""

    def __init__(self, sizes: Sizes, machine: Machine) -> None:
        layers = [*sizes.layers, (sizes.units[-1], sizes.classes)]
        forward = np.array([2.0 * sizes.batch * i * o for i, o in layers]) / machine.arithmetic
        products = 3 * forward
        products[0] -= forward[0]  # nobody asks for the gradient of the image
        parameters = np.array([i * o + o for i, o in layers])
        traffic = ADAM_BYTES + (CAST_BYTES if sizes.number_bytes == 2 else 0)
        activations = sizes.batch * sizes.number_bytes * np.array([o for _, o in layers])
        # The classifier stays with the last block.
        self.products, self.parameters, self.activations = (
            np.append(column[:-2], column[-2] + column[-1]) for column in (products, parameters, activations)
        )
        self.boundary = sizes.batch * sizes.number_bytes * np.array(sizes.units)
        self.update = self.parameters * traffic / machine.memory
        self.batch = sizes.batch
        self.data = sizes.examples * (sizes.inputs + 8)


def _data_parallel(step: _Step, world: World, speeds: tuple[float, ...], steps: int, alone: float) -> Way:
    nodes, slowest = len(speeds), min(speeds)
    weights = 4 * int(step.parameters.sum())
    compute = (float(step.products.sum()) / nodes + float(step.update.sum())) / slowest
    reduce = 2 * (nodes - 1) * (weights / nodes / world.bandwidth + world.latency)
    seconds = steps * (compute + reduce)
    busy = compute * float(np.mean(slowest / np.array(speeds)))
    return Way(
        name="data-parallel backprop",
        seconds=seconds,
        speedup=alone / seconds,
        utilisation=busy / (compute + reduce),
        bytes=steps * 2 * (nodes - 1) * weights,
        memory=4 * weights + int(step.activations.sum()) // nodes + step.data // nodes,
        note=_RULE,
    )


def _pipeline(name: str, step: _Step, world: World, speeds: tuple[float, ...], steps: int, alone: float) -> Way:
    depth = min(len(speeds), len(step.products))
    total = np.concatenate([[0.0], np.cumsum(step.products + step.update)])
    groups = deal_stages(total[None, :] - total[:, None], speeds[:depth])
    micro = min(step.batch, 4 * depth)
    work = [float(step.products[g.start : g.stop].sum()) / s for g, s in zip(groups, speeds, strict=False)]
    update = max(float(step.update[g.start : g.stop].sum()) / s for g, s in zip(groups, speeds, strict=False))
    crossing = [int(step.boundary[g.stop - 1]) for g in groups[:-1]]
    hop = max(crossing, default=0) / micro / world.bandwidth
    slot = max(max(work) / micro, hop)
    one = (micro + depth - 1) * slot + update + 2 * (depth - 1) * (hop + world.latency)
    held = 1.0 if name == "GPipe" else min(1.0, depth / micro)
    memory = max(
        16 * step.parameters[g.start : g.stop].sum() + held * step.activations[g.start : g.stop].sum() for g in groups
    )
    return Way(
        name=f"{name} backprop",
        seconds=steps * one,
        speedup=alone / (steps * one),
        utilisation=sum(work) / len(speeds) / one,
        bytes=steps * 2 * sum(crossing),
        memory=int(memory) + step.data,
        note=_RULE,
    )
