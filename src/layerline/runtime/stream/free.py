"""Training with blocks that run freely, in one process: an order of events, carried out one after the other.

    order        (1,0) (1,1) (2,0) …       made beforehand by a virtual clock, or recorded by another run
                    │
    1 open       the minibatch that the event names, as it waits since it was sent
    2 learn      forward, the block's own loss, update: as in a synchronous stream
    3 send       what it put out before the update, if a later event uses it

A block's bits depend on the minibatches it takes and on nothing else, so any list of events that ever happened can be
done again. What waits here is what a later event uses, which is no more than the replay buffers would hold.

An epoch of a block ends when it has come to the end of that epoch's data. Learning rates go by the minibatch's number
in the data, draws by a block's own steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from layerline.data.text_set import AnySet
from layerline.events import EpochDone, Event, Minibatch, Row
from layerline.runtime.stream.model import StreamModel
from layerline.runtime.stream.own_step import OwnSteps
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
        self._numbers, self._origins = order.number, order.origins
        self._waiting: dict[tuple[int, int], Parcel] = {}
        self._own = [OwnSteps(stage, self.feed, self.device) for stage in self.stages]

    def _summed(self) -> Iterable[int]:
        return ()  # every block's own steps keep its numbers

    @property
    def steps(self) -> int:
        return len(self.order)

    @property
    def steps_done(self) -> int:
        return self.cursor.batch

    @property
    def comparable(self) -> bool:
        """Right after the last block has come to the end of an epoch."""
        own = self._own[int(self.order.events[self.cursor.batch - 1, 0])]
        whole = own.reached % self.batches == 0 or not own.done  # else it is cut short by --max-steps
        return whole and own.epochs == min(each.epochs for each in self._own)

    def train(self) -> Iterator[Event]:
        self.model.train()
        for at in range(self.cursor.batch, len(self.order)):
            self.cursor = Cursor(batch=at + 1)
            row = self._carry_out(at)
            if row is not None:
                yield EpochDone(row.epoch, [row])
            elif at + 1 < len(self.order):
                yield Minibatch(int(self._origins[at]) // self.batches + 1, f"block {self.order.events[at, 0] + 1}")

    def tensors(self) -> dict[str, Tensor]:
        named = self._fixed()
        for (block, step), parcel in self._waiting.items():
            named |= {f"waiting.{block}.{step}.{name}": tensor for name, tensor in parcel.items()}
        for crossing in self.crossings:
            named |= {f"codes.{crossing.index}.{name}": codes for name, codes in crossing.versions().items()}
        return named

    def results(self) -> dict[str, Any]:
        facts = [self.order.facts(block) for block in range(self.order.blocks)]
        return {"events": len(self.order), "blocks": facts} | super().results()

    def _fixed(self) -> dict[str, Tensor]:
        """What has the same names and sizes at every event."""
        named = super().tensors()
        for block, own in enumerate(self._own):
            named |= {f"{block}.own.{name}": tensor for name, tensor in own.tensors().items()}
        return named

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor], cursor: Cursor) -> None:
        if not 0 <= cursor.batch <= len(self.order):
            raise RuntimeError(f"there is no event {cursor}")
        fixed = {name: tensor for name, tensor in tensors.items() if not name.startswith(("waiting.", "codes."))}
        take_over(self._fixed(), fixed)
        self._waiting = {place: below(tensors, "waiting.{}.{}.".format(*place)) for place in self._needed(cursor.batch)}
        for crossing in self.crossings:
            crossing.resume(below(tensors, f"codes.{crossing.index}."))
        missing = [place for place, parcel in self._waiting.items() if LABELS not in parcel]
        if missing:
            raise KeyError(f"waiting.{missing[0]}")
        self.cursor = cursor

    def _needed(self, at: int) -> list[tuple[int, int]]:
        """What was made before event `at` and is used then or later, oldest first."""
        used = {(block - 1, source) for block, source in self.order.events[at:].tolist() if block}
        before = zip(self.order.events[:at, 0].tolist(), self._numbers[:at].tolist(), strict=True)
        return [place for place in before if place in used]

    def _carry_out(self, at: int) -> Row | None:
        """One event: 1 to 3. Returns the numbers of its block's epoch, if that ends."""
        block, source = self.order.events[at].tolist()
        number, origin = int(self._numbers[at]), int(self._origins[at])
        x, labels = self._open(block, source)  # 1
        if self._uses.last[at]:
            del self._waiting[block - 1, source]
        h, row = self._own[block].learn(x, labels, number, origin)  # 2
        if block < len(self.crossings):  # 3
            parcel = self.crossings[block].send(h) | {LABELS: labels}
            if self._uses.wanted[at]:
                self._waiting[block, number] = parcel
            self.crossings[block].keep(parcel for (below, _), parcel in self._waiting.items() if below == block)
        return row

    def _open(self, block: int, source: int) -> tuple[Tensor, Tensor]:
        """Inputs and labels of a minibatch for a block."""
        if block:
            parcel = self._waiting[block - 1, source]
            return self.crossings[block - 1].open(parcel), parcel[LABELS]
        return self.feed.minibatch(source)
