"""Simultaneous training: every block learns on every minibatch (Hinton, arXiv 2212.13345).

            minibatch 1      minibatch 2
    block 1 ■ ─┐             ■ ─┐
    block 2    ■ ─┐             ■ ─┐           each block passes on its outputs from before its update
    block 3       ■                ■
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from layerline.events import Event, Minibatch
from layerline.negatives.labels import LabelNegatives
from layerline.runtime.seeding import generator
from layerline.runtime.trainer import Cursor, Trainer


class SimultaneousTrainer(Trainer):
    """All blocks on every minibatch; a chapter is only the time between two draws of negatives."""

    @property
    def steps(self) -> int:
        return self.run.epochs * self.batches

    @property
    def steps_done(self) -> int:
        return self.cursor.epoch * self.batches + self.cursor.batch

    def train(self) -> Iterator[Event]:
        names = [str(index) for index in range(len(self.learners))] + ["head"] * (self.head is not None)
        for epoch in range(self.cursor.epoch, self.run.epochs):
            if self.cursor.batch == 0 and epoch % self.run.epochs_per_chapter == 0:
                self.begin_chapter(epoch // self.run.epochs_per_chapter)
            order_n, augmentation_n = self.order(epoch), self.data.augmentation(epoch)
            for index, learner in enumerate(self.learners):
                learner.begin_epoch(generator(self.run.seed, "dropout", index, epoch))
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
        logits_BC = None
        if self.head:
            features_BN = self.neutral_features(indices_B, augmentation_n)
            logits_BC = self.head.learn(features_BN, labels_B, self.head_lr(epoch, batch))
            self.record("head", logits_BC)
        self._draw_for_minibatch(indices_B, labels_B, logits_BC, epoch, batch)
        x = self.first_input(indices_B, epoch, augmentation_n)
        lr = self.lr(epoch, batch)
        for index, learner in enumerate(self.learners):
            h, norms_R, record = learner.learn(x, labels_B, lr, batch)
            self.record(str(index), record)
            if index + 1 < len(self.learners):
                x = self.model.network.normaliser(h, norms_R)

    def _draw_for_minibatch(
        self, indices_B: Tensor, labels_B: Tensor, logits_BC: Tensor | None, epoch: int, batch: int
    ) -> None:
        policy = self.run.negatives
        if not (self.run.writes_labels and isinstance(policy, LabelNegatives) and policy.when("simultaneous") == "minibatch"):
            return
        if logits_BC is None and policy.needs_scores:
            logits_BC = self.model.scores(self.data.images(indices_B, None))
        draw = generator(self.run.seed, "negatives", epoch, batch)
        self.negatives_n[indices_B] = policy.draw(labels_B, self.model.encoder.classes, logits_BC, draw)
