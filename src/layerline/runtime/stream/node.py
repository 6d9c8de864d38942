"""A node of a stream: its blocks, what they learn, and what it notes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from layerline.errors import MessageRefused
from layerline.events import Row
from layerline.runtime.fitting import fit, reading
from layerline.runtime.model import PRECISIONS
from layerline.runtime.stream.crossing import Crossing, coded
from layerline.runtime.stream.feed import Feed
from layerline.runtime.stream.model import StreamModel
from layerline.runtime.stream.recording import Recording
from layerline.runtime.stream.stage import stage_of
from layerline.runtime.stream.sums import Sums, by_name
from layerline.runtime.training import below, take_over
from layerline.transport.boundary import Parcel
from layerline.transport.message import SAME_RUN

GRADIENT = "gradient"
"""The name of what goes back to the block below."""


@dataclass
class Noted:
    """What a node noted so far, over all sittings of a run; it is saved with the node."""

    rows: list[Row] = field(default_factory=list)
    """The numbers of its blocks, epoch by epoch."""
    busy: dict[int, float] = field(default_factory=dict)
    """Seconds of each row of a step, by number, summed over the steps."""
    seconds: float = 0.0
    """Since training began, without the time between two sittings."""
    bytes: int = 0
    """Sent to other nodes."""
    recording: Recording = field(default_factory=Recording)
    """When the rows of some steps began and ended."""
    crossed: dict[int, dict[str, float | int]] = field(default_factory=dict)
    """What left its blocks coded, by block: bytes, ratio to float32, relative error of what arrives."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> Noted:
        """From JSON. KeyError or TypeError where that is no such thing."""
        rows = [Row(**row) for row in facts["rows"]]
        busy = {int(row): float(seconds) for row, seconds in facts["busy"].items()}
        recording = Recording.from_dict(facts["recording"])
        crossed = {int(block): said for block, said in facts.get("crossed", {}).items()}
        return cls(rows, busy, float(facts["seconds"]), int(facts["bytes"]), recording, crossed)


def in_order(noted: Sequence[Noted]) -> list[Row]:
    """All rows, epoch by epoch."""
    return sorted((row for each in noted for row in each.rows), key=lambda row: (row.epoch, int(row.block)))


class StreamNode:
    """The blocks of one logical node. Parameters are the model's, and updated in place.

    `every`: the boundaries of the network in order, whose ends at these blocks are the node's; left out: where outputs
    are coded.
    """

    varying: tuple[str, ...] = ("codes.",)
    """How names of tensors begin that are not the same ones at every step."""

    def __init__(
        self, blocks: Sequence[int], model: StreamModel, feed: Feed, every: Sequence[Crossing] | None = None
    ) -> None:
        self.blocks, self.feed, self._whole = blocks, feed, model
        self.device = device = model.device
        self.stages = {index: stage_of(model, index) for index in blocks}
        self._sums = {block: Sums(block, device) for block in self._judged(model)}
        every = coded(model, device) if every is None else every
        self._inlets = {block: every[block - 1] for block in blocks if block and every}
        self._outlets = {block: every[block] for block in blocks if block < len(every)}
        self._taken = {block: model.output_shapes[block - 1] for block in blocks if block}
        self.noted = Noted()

    def forward(self, block: int, step: int, part: int, parcel: Parcel | None) -> Parcel:
        """A microbatch through a block; the first block takes it from the training set."""
        x = self.feed.inputs(step, part) if parcel is None else self._opened(block, step, part, parcel)
        h = self.stages[block].forward(part, x, self.feed.seed(block, step, part))
        outlet = self._outlets.get(block)
        return outlet.sender.encode(h) if outlet else {"outputs": h}

    def _opened(self, block: int, step: int, part: int, parcel: Parcel) -> Tensor:
        """What a block gets of a parcel; they come in the order they were sent, and each is opened at once."""
        if not self._from_elsewhere(block):
            return self._decoded(block, parcel)
        parcel = {name: tensor.to(self.device) for name, tensor in parcel.items()}  # it came to the host's memory
        with reading(f"what block {block} put out"):
            x = self._decoded(block, parcel)
        return self._fitting(block, x, self.feed.count(step, part))

    def _from_elsewhere(self, block: int) -> bool:
        return block > 0 and block - 1 not in self.blocks

    def _fitting(self, block: int, x: Tensor, examples: int) -> Tensor:
        """What a block gets from elsewhere. MessageRefused unless it is that many outputs of the block below."""
        what = f"what block {block} put out"
        fit(what, {"outputs": x}, {"outputs": (examples, *self._taken[block])})
        if x.dtype not in (torch.float32, PRECISIONS[self.feed.run.precision]):
            raise MessageRefused(f"{what} was refused: its numbers are {x.dtype}", hint=SAME_RUN)
        return x

    def _decoded(self, block: int, parcel: Parcel) -> Tensor:
        inlet = self._inlets.get(block)
        if inlet is None:
            return parcel["outputs"]
        kept = inlet.receiver.accept(parcel)
        inlet.keep([kept])
        return inlet.open(kept)

    def backward(self, block: int, loss: int, step: int, part: int, parcel: Parcel | None) -> Parcel | None:
        """A loss's gradient through a block: its own loss (`parcel` None), or one above. Returns what goes on."""
        stage = self.stages[block]
        if parcel is None:
            labels = self.feed.labels(step, part)
            gradient, (value, right) = stage.own_loss(part, labels, self.feed.share(step, part))
            self.record(block, value, right, labels)
        else:
            fit(f"the gradient of what block {block + 1} put out", parcel, {GRADIENT: stage.output_shape(part)})
            gradient = parcel[GRADIENT].to(self.device)
        below = stage.through(part, loss, gradient)
        return None if below is None else {GRADIENT: below}

    def record(self, block: int, value: Tensor, right: Tensor, labels: Tensor) -> None:
        """Note a microbatch's mean loss at a block, and how many of its answers were right."""
        self._sums[block].add(value, right, labels)

    def sums(self) -> list[Tensor]:
        """What was recorded since the epoch began."""
        return list(by_name(self._sums).values())

    def update(self, block: int, step: int) -> None:
        """A block follows the gradients of the minibatch, and heads here that are made of its weights follow it."""
        self.stages[block].update(self.feed.lr(step))
        for own, followed in self._whole.follows:
            if followed == block and own in self.blocks:
                self._whole.follow_one(own, self._whole.watched(own))

    def watched(self, block: int) -> dict[str, Tensor]:
        """The weights of a block here that heads elsewhere follow, to be sent."""
        own = next(own for own, followed in self._whole.follows if followed == block)
        return {str(number): weight for number, weight in enumerate(self._whole.watched(own))}

    def follow(self, block: int, weights: dict[str, Tensor]) -> None:
        """Heads here that are made of the weights of a block elsewhere follow them."""
        for own, followed in self._whole.follows:
            if followed == block and own in self.blocks:
                wanted = {str(number): weight.shape for number, weight in enumerate(self._whole.watched(own))}
                fit(f"what came as weights of block {block + 1}", weights, wanted)
                self._whole.follow_one(own, [weights[name].to(self.device) for name in wanted])

    def end_epoch(self, step: int) -> list[Row]:
        """The numbers of the epoch that ends with a step."""
        epoch, examples = self.feed.place(step)[0] + 1, self.feed.examples(step)
        rows = [sums.row(epoch, examples) for sums in self._sums.values()]
        self.noted.rows += rows
        return rows

    def note_crossed(self) -> None:
        """Note what left blocks coded so far."""
        self.noted.crossed = {block: outlet.sender.facts() for block, outlet in self._outlets.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Everything a checkpoint needs of this node between two steps, by name."""
        named = self._fixed()
        for block, inlet in self._inlets.items():
            named |= {f"codes.{block}.{name}": tensor for name, tensor in inlet.versions().items()}
        return named

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over a state, in place. KeyError or RuntimeError if it is another network's."""
        take_over(self._fixed(), {name: t for name, t in tensors.items() if not name.startswith(self.varying)})
        for block, inlet in self._inlets.items():
            inlet.resume(below(tensors, f"codes.{block}."))
        self._whole.share(self.blocks)

    def _fixed(self) -> dict[str, Tensor]:
        """What has the same names and sizes at every step."""
        named = by_name(self._sums)
        for block, stage in self.stages.items():
            named |= {f"{block}.{name}": tensor for name, tensor in stage.tensors().items()}
        for block, outlet in self._outlets.items():
            named |= {f"{block}.sent.{name}": tensor for name, tensor in outlet.sender.tensors().items()}
        return named

    def finished(self, block: int) -> dict[str, Tensor]:
        """A block, its head and its codes, as they are now."""
        return _trained(self._whole, block)

    def _judged(self, model: StreamModel) -> list[int]:
        return [block for block in self.blocks if model.reach.has_loss(block)]


def fill(model: StreamModel, block: int, tensors: dict[str, Tensor]) -> None:
    """Bring a finished block of another process into the model. KeyError or RuntimeError if it does not fit."""
    model.hold(block)
    take_over(_trained(model, block), tensors)


def _trained(model: StreamModel, block: int) -> dict[str, Tensor]:
    parts = model.parts(block).items()
    return {f"{part}.{name}": tensor for part, module in parts for name, tensor in module.state_dict().items()}
