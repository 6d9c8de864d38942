"""Training with blocks that run freely, in one process: an order of events, carried out one after the other.

    order        (1,0) (1,1) (2,0) …       made beforehand by a virtual clock, or recorded by another run
                    │
    1 open       the minibatch that the event names, as it waits since it was sent
    2 learn      forward, the block's own loss, update: as in a synchronous stream
    3 send       what it put out before the update, if a later event uses it

A block's bits depend on the minibatches it takes and on nothing else, so any list of events that ever happened can be
done again. What waits here is what a later event uses, which is no more than the replay buffers would hold.

An epoch of a block is as many of its own steps as there are minibatches in the data; learning rates and draws go by a
block's own steps. A block that has had all its steps works as it will in prediction, and no longer changes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from layerline.data.text_set import AnySet
from layerline.events import EpochDone, Event, Minibatch, Row
from layerline.runtime.stream.model import StreamModel
from layerline.runtime.stream.own_step import learn, pass_on
from layerline.runtime.stream.trainer import StreamTrainer
from layerline.runtime.training import Cursor, below, take_over
from layerline.schedules.order import Uses
from layerline.transport.boundary import Parcel

LABELS = "labels"


class FreeTrainer(StreamTrainer):
    """All blocks at their own speed. The cursor's batch counts events."""

    def __init__(self, model: StreamModel, data: AnySet) -> None:
        super().__init__(model, data)
        order = self.run.timing.order(len(self.stages), super().steps, self.run.seed)
        assert order is not None
        self.order = order
        self._uses = Uses.of(order)
        self._numbers = order.number
        self._waiting: dict[tuple[int, int], Parcel] = {}
        self._examples = torch.zeros(len(self.stages), dtype=torch.int64)

    @property
    def steps(self) -> int:
        return len(self.order)

    @property
    def steps_done(self) -> int:
        return self.cursor.batch

    @property
    def comparable(self) -> bool:
        """Right after the last block has come to the end of an epoch."""
        at = self.cursor.batch - 1
        made = np.bincount(self.order.events[: at + 1, 0], minlength=self.order.blocks)
        return bool(min(made) >= self._numbers[at] + 1)

    def train(self) -> Iterator[Event]:
        self.model.train()
        for at in range(self.cursor.batch, len(self.order)):
            self.cursor = Cursor(batch=at + 1)
            if not self._uses.counts[at]:
                continue
            block, number = int(self.order.events[at, 0]), int(self._numbers[at])
            self._carry_out(at)
            epoch_ends = (number + 1) % self.batches == 0 or number + 1 == self.order.steps
            if number < self.order.steps and epoch_ends:
                yield self._end_block(block, number // self.batches)
            elif at + 1 < len(self.order):
                yield Minibatch(min(number // self.batches, self.run.epochs - 1) + 1, f"block {block + 1}")

    def tensors(self) -> dict[str, Tensor]:
        named = super().tensors() | {"examples": self._examples}
        for (block, step), parcel in self._waiting.items():
            named |= {f"waiting.{block}.{step}.{name}": tensor for name, tensor in parcel.items()}
        for crossing in self.crossings:
            named |= {f"codes.{crossing.index}.{name}": codes for name, codes in crossing.versions().items()}
        return named

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor], cursor: Cursor) -> None:
        if not 0 <= cursor.batch <= len(self.order):
            raise RuntimeError(f"there is no event {cursor}")
        fixed = {name: tensor for name, tensor in tensors.items() if not name.startswith(("waiting.", "codes."))}
        take_over(super().tensors() | {"examples": self._examples}, fixed)
        self._waiting = {place: below(tensors, "waiting.{}.{}.".format(*place)) for place in self._needed(cursor.batch)}
        for crossing in self.crossings:
            crossing.resume(below(tensors, f"codes.{crossing.index}."))
        missing = [place for place, parcel in self._waiting.items() if LABELS not in parcel]
        if missing:
            raise KeyError(f"waiting.{missing[0]}")
        self.cursor = cursor

    def _needed(self, at: int) -> list[tuple[int, int]]:
        """What was made before event `at` and is used then or later, oldest first."""
        later = zip(self.order.events[at:].tolist(), self._uses.counts[at:], strict=True)
        used = {(block - 1, source) for (block, source), counts in later if block and counts}
        before = zip(self.order.events[:at, 0].tolist(), self._numbers[:at].tolist(), strict=True)
        return [place for place in before if place in used]

    def _carry_out(self, at: int) -> None:
        """One event: 1 to 3."""
        block, source = self.order.events[at].tolist()
        number, stage = int(self._numbers[at]), self.stages[block]
        x, labels = self._open(block, source)  # 1
        if self._uses.last[at]:
            del self._waiting[block - 1, source]
        learns = number < self.order.steps
        if learns:  # 2
            h = learn(stage, self.feed, x, labels, number, (self._losses[block], self._right[block]))
            self._examples[block] += len(labels)
        else:
            h = pass_on(stage, self.model, x)
        if block < len(self.crossings) and (learns or self._uses.wanted[at]):  # 3
            parcel = self.crossings[block].send(h, learns) | {LABELS: labels}
            if self._uses.wanted[at]:
                self._waiting[block, number] = parcel
            self.crossings[block].keep(parcel for (below, _), parcel in self._waiting.items() if below == block)

    def _open(self, block: int, source: int) -> tuple[Tensor, Tensor]:
        """Inputs and labels of a minibatch for a block."""
        if block:
            parcel = self._waiting[block - 1, source]
            return self.crossings[block - 1].open(parcel), parcel[LABELS]
        return self.feed.minibatch(source)

    def _end_block(self, block: int, epoch: int) -> EpochDone:
        """The numbers of a block's own epoch."""
        examples = int(self._examples[block])
        loss, right = self._losses[block].item() / examples, self._right[block].item() / examples
        for total in (self._losses, self._right, self._examples):
            total[block] = 0
        return EpochDone(epoch + 1, [Row(epoch=epoch + 1, block=str(block + 1), loss=loss, accuracy=right)])
