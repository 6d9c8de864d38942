"""Training in chapters on one node: stage after stage, chapter after chapter (PFF, arXiv 2404.08573, Sequential).

    chapter 1: block 1, block 2, …, head; new negatives; chapter 2: block 1, …

It can stop, and go on, between any two minibatches.
"""

from __future__ import annotations

from collections.abc import Iterator

from layerline.events import EpochDone, Event
from layerline.runtime.node import Node
from layerline.runtime.training import Cursor


class ChapterTrainer(Node):
    """Slot after slot: stage l for the epochs of chapter c."""

    _inputs_of = (-1, -1)  # chapter, stage

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
                self._bring_inputs(chapter, stage)
                for epoch in range(self.cursor.epoch, (chapter + 1) * epochs):
                    last = epoch + 1 == (chapter + 1) * epochs
                    for batch, event in enumerate(self.epoch(stage, epoch, self.cursor.batch), self.cursor.batch + 1):
                        done = isinstance(event, EpochDone)
                        self.cursor = self._next(stage, epoch, last) if done else Cursor(epoch, stage, batch)
                        yield event

    @property
    def comparable(self) -> bool:
        cursor = self.cursor
        return cursor.block == cursor.batch == 0 and cursor.epoch % self.run.epochs_per_chapter == 0

    def _next(self, stage: int, epoch: int, last: bool) -> Cursor:
        """The minibatch after an epoch's last."""
        if not last:
            return Cursor(epoch + 1, stage)
        if stage + 1 < self.stages:
            return Cursor(epoch + 1 - self.run.epochs_per_chapter, stage + 1)
        return Cursor(epoch + 1)

    def _bring_inputs(self, chapter: int, stage: int) -> None:
        """Bring the stored inputs to `stage`, from where they are or (after a resume) from the images."""
        if stage == 0 or self._inputs_of == (chapter, stage):
            return
        if stage == len(self.learners):
            self.inputs = self.features(chapter)
        else:
            self._bring_inputs(chapter, stage - 1)
            self.inputs = self.forward(stage - 1, chapter, self.inputs)
        self._inputs_of = chapter, stage
