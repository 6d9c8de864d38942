"""Training in a stream, in one process: the order that every plan of a stream agrees with.

Of each minibatch, part after part:                  reach 2, three blocks

    1  forward through the blocks                    x ─► 1 ─h─► 2 ─h─► 3
    2  backward, the last block first                     1 ◄─g─ 2 ◄─g─ 3
    3  update every block                                 ■      ■      ■

Block k needs nothing from more than reach − 1 blocks ahead, so over nodes all blocks work at once; what each computes,
and adds up, is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

from layerline.data.text_set import AnySet
from layerline.events import EpochDone, Event, Minibatch
from layerline.runtime.stream.crossing import crossings
from layerline.runtime.stream.feed import Feed
from layerline.runtime.stream.model import StreamModel
from layerline.runtime.stream.stage import stage_of
from layerline.runtime.stream.sums import Sums, by_name
from layerline.runtime.training import BaseTrainer, Cursor, take_over
from layerline.stream_run import StreamRun


class StreamTrainer(BaseTrainer):
    """All blocks on every minibatch, each from the loss that its reach allows."""

    model: StreamModel
    run: StreamRun

    def __init__(self, model: StreamModel, data: AnySet) -> None:
        self.model, self.run = model, model.run
        self.feed = Feed(model, data)
        self.batches = self.feed.batches
        self.stages = [stage_of(model, index) for index in range(len(model.blocks))]
        self.crossings = crossings(model, self.device)
        model.share()
        self.cursor = Cursor()
        self._sums = {block: Sums(block, self.device) for block in self._summed()}

    @property
    def steps(self) -> int:
        return self.feed.steps

    @property
    def steps_done(self) -> int:
        return self.cursor.epoch * self.batches + self.cursor.batch

    @property
    def comparable(self) -> bool:
        return self.cursor.batch == 0

    @property
    def base_lr(self) -> float:
        return self.run.optimizer.lr

    def train(self) -> Iterator[Event]:
        self.model.train()
        for epoch in range(self.cursor.epoch, self.run.epochs):
            first, last = self.cursor.batch, min(self.batches, self.steps - epoch * self.batches)
            for batch in range(first, last):
                self._learn(epoch * self.batches + batch)
                self.cursor = Cursor(epoch, 0, batch + 1)
                if batch + 1 < last:
                    yield Minibatch(epoch + 1, "all blocks")
            if last > first:
                if last == self.batches:
                    self.cursor = Cursor(epoch + 1)
                yield self._end_epoch(epoch, self.feed.examples(epoch * self.batches + last - 1))

    def tensors(self) -> dict[str, Tensor]:
        named = by_name(self._sums)
        for stage in self.stages:
            named |= {f"{stage.index}.{name}": tensor for name, tensor in stage.tensors().items()}
        for crossing in self.crossings:
            named |= {f"{crossing.index}.sent.{name}": tensor for name, tensor in crossing.sender.tensors().items()}
        return named

    def results(self) -> dict[str, Any]:
        return {"boundaries": [{"block": c.index + 1} | c.sender.facts() for c in self.crossings]}

    def load(self, tensors: dict[str, Tensor], cursor: Cursor) -> None:
        if not 0 <= cursor.epoch <= self.run.epochs or not 0 <= cursor.batch <= self.batches:
            raise RuntimeError(f"there is no minibatch {cursor}")
        take_over(self.tensors(), tensors)
        for crossing in self.crossings:
            crossing.resume({})
        self.model.share()
        self.cursor = cursor

    def _learn(self, step: int) -> None:
        feed, stages = self.feed, self.stages
        for part in range(len(feed.parts(step))):
            x, labels = feed.inputs(step, part), feed.labels(step, part)
            for stage in stages:  # 1
                x = stage.forward(part, x, feed.seed(stage.index, step, part))
                if stage.index < len(self.crossings):
                    x = self._cross(stage.index, x)
            gradients: list[Tensor] = []
            for stage in reversed(stages):  # 2
                gradients, record = stage.backward(part, labels, gradients, feed.share(step, part))
                if record is not None:
                    self._sums[stage.index].add(*record, labels)
        for stage in stages:  # 3
            stage.update(feed.lr(step))
        self.model.follow()

    def _cross(self, index: int, h: Tensor) -> Tensor:
        """What the block after block `index` gets of its outputs."""
        crossing = self.crossings[index]
        parcel = crossing.send(h)
        crossing.keep([parcel])
        return crossing.open(parcel)

    def _end_epoch(self, epoch: int, examples: int) -> EpochDone:
        return EpochDone(epoch + 1, [sums.row(epoch + 1, examples) for sums in self._sums.values()])

    def _summed(self) -> Iterable[int]:
        """The blocks whose numbers are added up here."""
        return self.model.reach.losses
