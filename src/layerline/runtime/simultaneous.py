"""Simultaneous training: every block learns on every minibatch (Hinton, arXiv 2212.13345).

            minibatch 1      minibatch 2
    block 1 ■ ─┐             ■ ─┐
    block 2    ■ ─┐             ■ ─┐
    block 3       ■                ■

A block passes on its outputs from before its update, and no block waits for one above it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from layerline.blocks.encoder import Blank
from layerline.events import Event, Minibatch
from layerline.negatives.labels import LabelNegatives
from layerline.runtime.seeding import generator
from layerline.runtime.trainer import Trainer
from layerline.runtime.training import Cursor


class SimultaneousTrainer(Trainer):
    """All blocks on every minibatch; a chapter is only the time between two draws of negatives."""

    @property
    def steps(self) -> int:
        return self.run.epochs * self.batches

    @property
    def steps_done(self) -> int:
        return self.cursor.epoch * self.batches + self.cursor.batch

    @property
    def comparable(self) -> bool:
        return self.cursor.batch == 0

    def train(self) -> Iterator[Event]:
        names = [str(index) for index in range(len(self.learners))] + ["head"] * (self.head is not None)
        for epoch in range(self.cursor.epoch, self.run.epochs):
            if self.cursor.batch == 0 and epoch % self.run.epochs_per_chapter == 0:
                self.begin_chapter(epoch // self.run.epochs_per_chapter)
            order_n, augmentation_n = self.order(epoch), self.data.augmentation(epoch)
            for index, learner in enumerate(self.learners):
                learner.begin_epoch(generator(self.run.seed, "dropout", index, epoch))
                if self.cursor.batch == 0:
                    learner.moments.drop_denormal()
            for batch in range(self.cursor.batch, self.batches):
                part = self.batch_slice(batch)
                self._learn(order_n[part.start : part.stop], epoch, batch, augmentation_n)
                self.cursor = Cursor(epoch, 0, batch + 1)
                if batch + 1 < self.batches:
                    yield Minibatch(epoch + 1, "all blocks")
            self.cursor = Cursor(epoch + 1)
            yield self.end_epoch(epoch, names, order_n)

    def _learn(self, indices_B: Tensor, epoch: int, batch: int, augmentation_n: Tensor | None) -> None:
        labels_B = self.data.labels[indices_B]
        image = self.model.encoder.prepare(self.data.images(indices_B, augmentation_n))
        self._neutral_pass(image, indices_B, labels_B, epoch, batch)
        x = self.first_input(indices_B, epoch, augmentation_n, image)
        lr = self.lr(epoch, batch)
        for index, learner in enumerate(self.learners):
            h, norms_R, record = learner.learn(x, labels_B, lr, batch)
            self.record(str(index), record)
            if index + 1 < len(self.learners):
                x = self.model.network.normaliser(h, norms_R)

    def _neutral_pass(self, image: Tensor | Blank, indices_B: Tensor, labels_B: Tensor, epoch: int, batch: int) -> None:
        """The heads learn from the neutral view, then the negatives are drawn by what they think, where they are."""
        depth = len(self.learners) if self.head else 1 if self.judge else 0
        activities = self._neutral_activities(image, depth)
        logits_BC, lr = None, self.head_lr(epoch, batch)
        if self.head:
            skip: int = getattr(self.run.readout, "skip", 0)
            logits_BC = self.head.learn(torch.cat(activities[skip:], 1), labels_B, lr)
            self.record("head", logits_BC)
        if self.judge:
            logits_BC = self.judge.learn(activities[0], labels_B, lr)
        policy = self.run.negatives
        if self.run.writes_labels and isinstance(policy, LabelNegatives) and policy.when("simultaneous") == "minibatch":
            if logits_BC is None and policy.needs_scores:
                logits_BC = self.model.scores(self.data.images(indices_B, None))
            draw = generator(self.run.seed, "negatives", epoch, batch)
            self.negatives_n[indices_B] = policy.draw(labels_B, self.model.encoder.classes, logits_BC, draw)

    @torch.no_grad()
    def _neutral_activities(self, image: Tensor | Blank, depth: int) -> list[Tensor]:
        """Normalised outputs of the first `depth` blocks on the neutral view, [B, N] each."""
        activities: list[Tensor] = []
        if depth:
            x = self.model.encoder.neutral(image)
        for learner in self.learners[:depth]:
            x = self.model.network.normaliser(learner.forward(x))
            activities.append(x.flatten(1))
        return activities
