"""Training in chapters: each block learns for a chapter, then hands its outputs on (PFF, arXiv 2404.08573, Sequential).

               chapter 1        chapter 2
    block 1    ■ ■              ■ ■                 ■ one epoch, here two a chapter
    block 2        ■ ■              ■ ■
    head               ■ ■              ■ ■         then new negatives

A block learns from the stored, normalised outputs of the block before it, taken once after that block's chapter.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from layerline.blocks.network import apply, predicting
from layerline.events import Event, Minibatch
from layerline.runtime.learner import BlockInput
from layerline.runtime.model import CHUNK_ROWS
from layerline.runtime.seeding import generator
from layerline.runtime.trainer import Cursor, Trainer


class ChapterTrainer(Trainer):
    """Slot after slot: block l for the epochs of chapter c."""

    _stored: Tensor  # inputs of block `_stored_for` > 0: [views, n, *shape]; of the head: [1, n, features]
    _stored_for = (-1, -1)  # chapter, block

    @property
    def stages(self) -> int:
        """Blocks, and the head where there is one."""
        return len(self.learners) + (self.head is not None)

    @property
    def steps(self) -> int:
        return self.run.epochs * self.stages * self.batches

    @property
    def steps_done(self) -> int:
        epochs = self.run.epochs_per_chapter
        chapter, within = divmod(self.cursor.epoch, epochs)
        done = (chapter * self.stages + self.cursor.block) * epochs + within
        return done * self.batches + self.cursor.batch

    def train(self) -> Iterator[Event]:
        epochs = self.run.epochs_per_chapter
        for chapter in range(self.cursor.epoch // epochs, self.run.chapter_count):
            if self.cursor == Cursor(chapter * epochs):
                self.begin_chapter(chapter)
            for stage in range(self.cursor.block, self.stages):
                self._store_inputs(chapter, stage)
                for epoch in range(self.cursor.epoch, (chapter + 1) * epochs):
                    yield from self._epoch(stage, epoch, last=epoch + 1 == (chapter + 1) * epochs)

    def _epoch(self, stage: int, epoch: int, last: bool) -> Iterator[Event]:
        name = str(stage) if stage < len(self.learners) else "head"
        what = f"block {stage + 1}" if name != "head" else name
        order_n = self.order(epoch)
        if name != "head":
            self.learners[stage].begin_epoch(generator(self.run.seed, "dropout", stage, epoch))
        for batch in range(self.cursor.batch, self.batches):
            part = self.batch_slice(batch)
            self._learn(stage, order_n[part.start : part.stop], epoch, batch)
            self.cursor = Cursor(epoch, stage, batch + 1)
            if batch + 1 < self.batches:
                yield Minibatch(epoch + 1, what)
        self.cursor = self._next(stage, epoch, last)
        yield self.end_epoch(epoch, [name], order_n)

    def _next(self, stage: int, epoch: int, last: bool) -> Cursor:
        """The minibatch after an epoch's last."""
        if not last:
            return Cursor(epoch + 1, stage)
        if stage + 1 < self.stages:
            return Cursor(epoch + 1 - self.run.epochs_per_chapter, stage + 1)
        return Cursor(epoch + 1)

    def _learn(self, stage: int, indices_B: Tensor, epoch: int, batch: int) -> None:
        labels_B = self.data.labels[indices_B]
        if stage == len(self.learners):
            assert self.head is not None
            self.record("head", self.head.learn(self._stored[0, indices_B], labels_B, self.head_lr(epoch, batch)))
            return
        x = self._first(indices_B, epoch) if stage == 0 else self._stored[:, indices_B].flatten(0, 1)
        _, _, record = self.learners[stage].learn(x, labels_B, self.lr(epoch, batch), batch)
        self.record(str(stage), record)

    def _first(self, indices_B: Tensor, epoch: int) -> BlockInput:
        """The first block's input; shifts and hybrids are drawn once a chapter, so that every block sees the same."""
        chapter = epoch // self.run.epochs_per_chapter
        if self._augmented_for != chapter:
            self._augmentation_n = self.data.augmentation(chapter)
            self._augmented_for = chapter
        return self.first_input(indices_B, chapter, self._augmentation_n)

    _augmentation_n: Tensor | None
    _augmented_for = -1

    @torch.no_grad()
    def _store_inputs(self, chapter: int, stage: int) -> None:
        """Bring the stored inputs to `stage`, from where they are or (after a resume) from the images."""
        if stage == 0 or self._stored_for == (chapter, stage):
            return
        if stage == len(self.learners):
            parts = torch.arange(len(self.data), device=self.data.labels.device).split(CHUNK_ROWS)
            self._first(parts[0][:1], chapter * self.run.epochs_per_chapter)
            self._stored = torch.cat([self.neutral_features(part, self._augmentation_n) for part in parts])[None]
        else:
            if stage > 1:
                self._store_inputs(chapter, stage - 1)
            self._stored = self._forward(chapter, stage - 1)
        self._stored_for = chapter, stage

    def _forward(self, chapter: int, stage: int) -> Tensor:
        """The whole set through block `stage`, normalised. [views, n, *shape]"""
        views, normaliser = self.run.objective.views, self.model.network.normaliser
        indices = torch.arange(len(self.data), device=self.data.labels.device)
        outputs = []
        with predicting(self.model.network), self.model.autocast():
            for part in indices.split(CHUNK_ROWS // views):
                if stage == 0:
                    x = self._first(part, chapter * self.run.epochs_per_chapter)
                else:
                    x = self._stored[:, part[0] : part[-1] + 1].flatten(0, 1)
                h = normaliser(apply(self.model.network.blocks[stage], x))
                outputs.append(h.view(views, len(part), *h.shape[1:]))
        return torch.cat(outputs, 1)
