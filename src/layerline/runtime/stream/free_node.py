"""A node of a stream whose blocks run freely: their replay buffers, what they learn, and the record of who took what.

    from the node below ─► buffer ─► block 2 ─► buffer ─► block 3 ─► to the node above
                                └──── events: (2, 17) (3, 12) (2, 18) … ────┘

Everything is here to go on from: the blocks, what lies in the buffers, the codes that it was coded with, and the events
so far. So what is saved after a step tells exactly the steps that made it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from layerline.errors import MessageRefused
from layerline.events import Row
from layerline.runtime.fitting import fit, reading
from layerline.runtime.stream.crossing import crossings
from layerline.runtime.stream.feed import Feed
from layerline.runtime.stream.free import LABELS
from layerline.runtime.stream.model import StreamModel
from layerline.runtime.stream.node import StreamNode
from layerline.runtime.stream.own_step import OwnSteps
from layerline.runtime.stream.replay import ReplayBuffer
from layerline.runtime.training import below
from layerline.transport.boundary import Parcel
from layerline.transport.message import SAME_RUN

ORIGIN = "origin"
"""Of a parcel: the minibatch of the data that it goes back to, int64 []."""


@dataclass
class FreeStep:
    """A block's step: what it took, and what it leaves for the next block."""

    block: int
    source: int
    """The step of the block below that made its minibatch; of the first block, the minibatch of the data."""
    number: int
    advance: int
    """Minibatches of the data that the block came past with it; 0 where it had been as far before."""
    begin: float
    """Seconds since 1970."""
    row: Row | None
    """The numbers of the epoch that ends with it."""
    parcel: Parcel | None
    """For the next block, if there is one."""


class FreeNode(StreamNode):
    """The blocks of one logical node. Parameters are the model's, and updated in place."""

    varying = (*StreamNode.varying, "events", "times", "buffer.")

    def __init__(
        self, blocks: Sequence[int], model: StreamModel, feed: Feed, buffer: int, max_reuse: int | None
    ) -> None:
        super().__init__(blocks, model, feed, crossings(model, model.device))
        self._model = model
        self._buffers = {block: ReplayBuffer(buffer, max_reuse) for block in blocks if block}
        self._own = {block: OwnSteps(stage, feed, model.device) for block, stage in self.stages.items()}
        self._made = dict.fromkeys(blocks, 0)
        self.events: list[tuple[int, int]] = []
        self.times: list[tuple[float, float]] = []
        """Begin and end of each event, seconds since 1970."""

    @property
    def reached(self) -> int:
        """Minibatches of the data that blocks of this node came past, each counted for each block."""
        return sum(own.reached for own in self._own.values())

    def has_done(self, block: int) -> bool:
        """Whether a block has learned from the last minibatch of the data."""
        return self._own[block].done

    @property
    def done(self) -> bool:
        """Whether all blocks have."""
        return all(own.done for own in self._own.values())

    def epoch(self, block: int) -> int:
        """The epoch of the data that a block is in, from 1."""
        return self._own[block].epochs + (not self._own[block].done)

    def put(self, block: int, step: int, parcel: Parcel) -> None:
        """A minibatch of the block below arrived."""
        inlet, buffer = self._inlets[block], self._buffers[block]
        if "codes" in parcel:  # what decodes the others later has to be where they are decoded
            parcel = parcel | {"codes": parcel["codes"].to(self.device)}
        buffer.put(step, self._accepted(block, parcel))
        inlet.keep(buffer.parcels)

    def _accepted(self, block: int, parcel: Parcel) -> Parcel:
        """What is kept of a minibatch. MessageRefused where it came from elsewhere, and has no labels of this data."""
        accept = self._inlets[block].receiver.accept
        if not self._from_elsewhere(block):
            return accept(parcel)
        what, labels = f"what block {block} put out", parcel[LABELS]
        wanted = self._model.encoder.input_shape if self._model.run.reads_text else ()
        fit(what, parcel, {LABELS: (max(1, len(labels) if labels.ndim else 0), *wanted), ORIGIN: ()})
        origin = parcel[ORIGIN]
        if origin.dtype != torch.int64 or not 0 <= int(origin) < self.feed.steps:
            raise MessageRefused(f"{what} was refused: the data has no minibatch {origin.item()}", hint=SAME_RUN)
        if labels.dtype != torch.int64 or int(labels.min()) < 0 or int(labels.max()) >= len(self._model.classes):
            raise MessageRefused(f"{what} was refused: its labels are no classes of this data", hint=SAME_RUN)
        with reading(what):
            return accept(parcel)

    def work(self, block: int) -> FreeStep | None:
        """A step of a block, to be noted by `finish`; None where it has to wait."""
        begin, number, own = time.time(), self._made[block], self._own[block]
        if block:
            taken = self._buffers[block].take()
            if taken is None:
                return None
            source, parcel = taken
            parcel = {name: tensor.to(self.device) for name, tensor in parcel.items()}
            x, labels, origin = self._open(block, parcel), parcel[LABELS], parcel[ORIGIN]
        else:
            source, origin = number, torch.tensor(number)
            x, labels = self.feed.minibatch(source)
        before = own.reached
        h, row = own.learn(x, labels, number, int(origin))
        outlet = self._outlets.get(block)
        made = outlet.sender.encode(h) | {LABELS: labels, ORIGIN: origin} if outlet else None
        if h.is_cuda:
            torch.cuda.synchronize()  # a slow-down is a multiple of the time that the step took
        return FreeStep(block, source, number, own.reached - before, begin, row, made)

    def _open(self, block: int, parcel: Parcel) -> Tensor:
        """What a block learns from."""
        if not self._from_elsewhere(block):
            return self._inlets[block].open(parcel)
        with reading(f"what block {block} put out"):
            x = self._inlets[block].open(parcel)
        return self._fitting(block, x, len(parcel[LABELS]))

    def finish(self, step: FreeStep) -> Parcel | None:
        """A step has taken its time: what goes to the next node."""
        block, number = step.block, step.number
        self.events.append((block, step.source))
        self.times.append((step.begin, time.time()))
        self._made[block] += 1
        if step.row is not None:
            self.noted.rows.append(step.row)
        if step.parcel is None or block + 1 not in self.blocks:
            return step.parcel
        self.put(block + 1, number, step.parcel)
        return None

    def history(self) -> dict[str, Tensor]:
        """Who took what, when; and what went over the boundaries."""
        return {
            "events": torch.tensor(self.events, dtype=torch.int32).view(-1, 2),
            "times": torch.tensor(self.times, dtype=torch.float64).view(-1, 2),
        } | {f"tally.{block}": outlet.sender.tally for block, outlet in self._outlets.items()}

    def tensors(self) -> dict[str, Tensor]:
        named = super().tensors() | {name: t for name, t in self.history().items() if not name.startswith("tally.")}
        for block, buffer in self._buffers.items():
            named |= {f"buffer.{block}.{name}": tensor for name, tensor in buffer.tensors().items()}
        return named

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        super().load(tensors)
        self.events = [(block, source) for block, source in tensors["events"].tolist()]
        self.times = [(begin, end) for begin, end in tensors["times"].tolist()]
        made = Counter(block for block, _ in self.events)
        self._made = {block: made[block] for block in self.blocks}
        for block, buffer in self._buffers.items():
            buffer.load(below(tensors, f"buffer.{block}."))
        for outlet in self._outlets.values():
            outlet.sender.announce()

    def _fixed(self) -> dict[str, Tensor]:
        named = super()._fixed()
        for block, own in self._own.items():
            named |= {f"{block}.own.{name}": tensor for name, tensor in own.tensors().items()}
        return named

    def _judged(self, model: StreamModel) -> list[int]:
        return []  # every block's own steps keep its numbers
