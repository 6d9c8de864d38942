"""What a plan costs, and the world it runs in: seconds and bytes, for the simulation.

Problem: before anything has run, somebody wants to know what a schedule would bring. Solution: a formula from the
network's sizes for an assumed machine. A local step of Linear + ReLU cannot leave out

    forward product               2 · rows · in · out      at the arithmetic rate
    weight gradient               2 · rows · in · out      (there is no input gradient)
    Adam, and casts in bf16       28 to 40 B a parameter   at the memory rate

At the first block the views of an image differ in the label only, and share its products. The set forwarded is one
forward product per view; ranking by goodness one per class; by the head, one and the head.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

from layerline.schedules.work import Work

ADAM_BYTES = 28  # weights and two moments, float32, read and written; the gradient read
CAST_BYTES = 12  # in bf16: gradient to float32, weights to bf16, each read and written

ON_THE_WIRE = {"fp32": 1.0, "bf16": 0.5, "int8": 0.25}
"""Bytes of weights on the wire over bytes in memory, for each codec."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """A network of Linear + ReLU blocks and its data, in numbers."""

    inputs: int
    units: tuple[int, ...]
    classes: int
    examples: int
    batch: int
    epochs: int = 1
    """Epochs a chapter."""
    views: int = 2
    """Rows per image: 2 in Forward-Forward, else 1."""
    labelled: bool = True
    """The label is part of the input, so that views share the image."""
    local_heads: bool = False
    """Every block has a softmax head of its own (local cross-entropy)."""
    joined: bool = False
    """All of it learns as one block, by backprop from a softmax head at its end."""
    head: bool = False
    """There is a softmax readout, a stage of its own."""
    skip: int = 1
    """Blocks it does not read."""
    judge: Literal["goodness", "head"] | None = None
    """What ranks labels for judged negatives."""
    number_bytes: int = 2
    """Of an activation: 2 in bf16, 4 in float32."""
    full_batch: bool = False
    """One step of the optimizer an epoch."""

    @property
    def layers(self) -> list[tuple[int, int]]:
        """Inputs and units of every block."""
        return list(pairwise((self.inputs, *self.units)))

    @property
    def blocks(self) -> int:
        """What learns on its own."""
        return 1 if self.joined else len(self.units)

    @property
    def features(self) -> int:
        """What the softmax readout reads."""
        return sum(self.units[self.skip :])


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A node of speed 1. The defaults are assumed: one core with bf16 matrix units. `--measure` measures."""

    arithmetic: float = 530e9
    """Operations a second in matrix products."""
    memory: float = 80e9
    """Bytes a second between memory and core."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds on a node of speed 1 for the whole training set, and bytes, per stage."""

    train: tuple[float, ...]
    """Training each stage for a chapter. The head's includes the neutral pass it learns from."""
    forward: tuple[float, ...]
    """The set through each block."""
    ranking: float
    """New negatives for all images."""
    weights: tuple[int, ...]
    moments: tuple[int, ...]
    outputs: tuple[int, ...]
    """Stored outputs of the set, per block."""
    labels: int
    data: int
    features: int = 0
    """What the head learns from, while it does."""

    def work(self, work: Work) -> Work:
        """The same work with these costs, for balancing."""
        return replace(work, train=self.train, forward=self.forward, ranking=self.ranking)


@dataclass(frozen=True, kw_only=True)
class World:
    """Links and nodes. Bytes a second leave a node one message at a time; infinity: for nothing."""

    bandwidth: float = float("inf")
    latency: float = 0.0
    speeds: tuple[float, ...] = field(default=())
    codec: float = 1.0
    """Bytes on the wire over bytes in memory: of weights, of a stream's outputs."""
    gradients: float = 1.0
    """The same of a stream's gradients."""
    moments_travel: bool = True
    """The optimizer's moments are part of a state that is handed over (all presets but the paper's)."""


ONE_HOST = World(bandwidth=3.5e9, latency=1e-4)
"""Processes on one host: 16 MB in 4.6 ms."""


def estimate(sizes: Sizes, machine: Machine) -> Costs:
    """The formula above."""
    n, C, views = sizes.examples, sizes.classes, sizes.views
    steps = sizes.epochs * (1 if sizes.full_batch else -(-n // sizes.batch))
    traffic = ADAM_BYTES + (CAST_BYTES if sizes.number_bytes == 2 else 0)
    product = [2.0 * n * i * o / machine.arithmetic for i, o in sizes.layers]  # of all images, one view
    shared = [1 if block == 0 and sizes.labelled else views for block in range(len(sizes.units))]
    write = [n * views * o * sizes.number_bytes / machine.memory for o in sizes.units]
    parameters = [i * o + o + (o * C + C) * sizes.local_heads for i, o in sizes.layers]
    neutral = sum(product)
    head_weights = sizes.features * C + C
    head_product = 2.0 * n * sizes.features * C / machine.arithmetic

    train = []
    for (_, units), once, rows, count in zip(sizes.layers, product, shared, parameters, strict=True):
        heads = 3 * 2.0 * n * views * units * C / machine.arithmetic * sizes.local_heads
        train.append(sizes.epochs * (2 * rows * once + heads) + steps * count * traffic / machine.memory)
    if sizes.head:
        head = sizes.epochs * 2 * head_product + steps * head_weights * ADAM_BYTES / machine.memory
        train.append(neutral + head)
        parameters.append(head_weights)
    if sizes.joined:
        end = sizes.units[-1]
        parameters = [sum(parameters) + end * C + C]
        crossing = sum(product[1:]) + 3 * 2.0 * n * end * C / machine.arithmetic  # input gradients, and the head
        train = [sum(train) + sizes.epochs * crossing + steps * (end * C + C) * traffic / machine.memory]
        product, shared, write = [neutral], [1], write[-1:]
    ranked = {"goodness": product[0] + C * sum(product[1:]), "head": neutral + head_product, None: 0.0}
    return Costs(
        train=tuple(train),
        forward=tuple(rows * once + w for rows, once, w in zip(shared, product, write, strict=True)),
        ranking=ranked[sizes.judge],
        weights=tuple(4 * count for count in parameters),
        moments=tuple(8 * count for count in parameters),
        outputs=tuple(n * views * o * sizes.number_bytes for o in sizes.units[-1 if sizes.joined else 0 :]),
        labels=8 * n,
        data=n * sizes.inputs,
        features=n * sizes.features * sizes.number_bytes * sizes.head,
    )


def fitted(costs: Costs, sizes: Sizes) -> Machine:
    """The machine whose arithmetic would give the measured forward passes; for what is not measured."""
    shared = [1 if block == 0 and sizes.labelled else sizes.views for block in range(len(sizes.units))]
    operations = sum(2.0 * sizes.examples * i * o * rows for (i, o), rows in zip(sizes.layers, shared, strict=True))
    return Machine(arithmetic=operations / sum(costs.forward))


def even(work: Work, unit: float = 1.0) -> Costs:
    """Costs that ask for nothing but time, in the proportions of the work."""
    nothing = (0,) * work.stages
    return Costs(
        train=tuple(unit * cost for cost in work.train),
        forward=tuple(unit * cost for cost in work.forward),
        ranking=unit * work.ranking if work.judged else 0.0,
        weights=nothing,
        moments=nothing,
        outputs=(0,) * work.blocks,
        labels=0,
        data=0,
    )
