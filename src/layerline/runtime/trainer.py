"""What both training orders of local objectives share: learners, the training set, negatives, the numbers of an epoch.

The state is parameters, moments, the labels drawn for the chapter, and the records of the epoch so far; order, shifts,
masks and negatives are functions of seed and cursor.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from layerline.blocks.encoder import Blank
from layerline.blocks.head import LinearHead, accuracy_and_loss
from layerline.blocks.network import predicting
from layerline.data.dataset import Dataset
from layerline.errors import UsageError
from layerline.events import EpochDone, Row
from layerline.negatives.labels import LabelNegatives
from layerline.negatives.masks import MaskedHybrid, hybrid
from layerline.readouts.readouts import features
from layerline.run import Run
from layerline.runtime.learner import BlockInput, HeadLearner, make_learner
from layerline.runtime.model import CHUNK_ROWS, PRECISIONS, Model
from layerline.runtime.seeding import generator
from layerline.runtime.training import BaseTrainer, Cursor, take_over
from layerline.runtime.training_set import TrainingSet


class Trainer(BaseTrainer):
    """What both training orders share."""

    model: Model
    run: Run

    def __init__(self, model: Model, data: Dataset) -> None:
        self.model, self.run = model, model.run
        run, objective = self.run, self.run.objective
        device = next(model.parameters()).device
        self.data = TrainingSet(data.train, run.augment, run.seed, device)
        self.batch_size = len(self.data) if run.full_batch else run.batch_size
        self.batches = -(-len(self.data) // self.batch_size)
        self.learners = [
            make_learner(block, state, objective, run.optimizer, units, PRECISIONS[run.precision])
            for block, state, units in zip(model.network.blocks, model.states, model.network.units, strict=True)
        ]
        self.head = HeadLearner(model.head, run.optimizer) if model.head is not None else None
        self.judge: HeadLearner | None = None  # of sampled negatives, where it is not the readout
        if run.has_judge:
            judge = LinearHead(model.network.units[0], model.encoder.classes).to(device)
            self.judge = HeadLearner(judge, run.optimizer)
        self.cursor = Cursor()
        self.negatives_n = torch.zeros_like(self.data.labels)
        self.records: dict[str, list[Tensor]] = {}
        self._masks: Tensor | None = None
        if isinstance(run.negatives, MaskedHybrid) and objective.needs_negatives:
            self._masks = run.negatives.masks(data.shape, generator(run.seed, "masks")).to(device)
        if objective.needs_negatives and data.num_classes < 2:
            raise UsageError(
                "Forward-Forward needs at least two classes", hint="choose --objective local-cross-entropy"
            )

    @property
    def base_lr(self) -> float:
        return self.run.optimizer.lr

    @property
    def stages(self) -> int:
        """What learns one after the other: the values of the cursor's block."""
        return 1

    # State ------------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """The whole state but the cursor, by name."""
        named = {"negatives": self.negatives_n}
        for index, learner in enumerate(self.learners):
            named |= {f"{index}.{k}": v for k, v in learner.tensors().items()}
        for name, head in (("readout", self.head), ("judge", self.judge)):
            if head:
                named |= {f"{name}.{k}": v for k, v in head.tensors().items()}
        return named | {f"record.{k}": torch.cat(v) for k, v in self.records.items() if v}

    def load(self, tensors: dict[str, Tensor], cursor: Cursor) -> None:
        records = {k: v for k, v in tensors.items() if k.startswith("record.")}
        inside = 0 <= cursor.epoch <= self.run.epochs and 0 <= cursor.block < self.stages
        if not inside or not 0 <= cursor.batch < self.batches:
            raise RuntimeError(f"there is no minibatch {cursor}")
        take_over(self.tensors(), {k: v for k, v in tensors.items() if k not in records})
        for learner in self.learners:
            learner.refresh()
        self.cursor = cursor
        sizes = [len(self.batch_slice(b)) for b in range(cursor.batch)]
        for name, record in records.items():
            per_image = len(record) // max(1, sum(sizes))
            self.records[name.removeprefix("record.")] = list(record.split([size * per_image for size in sizes]))

    # Minibatches ------------------------------------------------------------------------------------------------

    def batch_slice(self, batch: int) -> range:
        """Positions of a minibatch in the epoch's order."""
        start = batch * self.batch_size
        return range(start, min(start + self.batch_size, len(self.data)))

    def lr(self, epoch: int, batch: int) -> float:
        """The blocks' learning rate at a minibatch."""
        return self.run.optimizer.lr * self.run.rate.factor(epoch + batch / self.batches, self.run.epochs)

    def head_lr(self, epoch: int, batch: int) -> float:
        """The readout's learning rate at a minibatch."""
        optimizer = self.run.optimizer
        return (optimizer.head_lr or optimizer.lr) * self.run.rate.factor(epoch + batch / self.batches, self.run.epochs)

    def order(self, epoch: int) -> Tensor:
        """The order of the examples in an epoch, [n]."""
        return self.data.order(0 if self.run.shuffle == "once" else epoch)

    def first_input(
        self, indices_B: Tensor, epoch: int, augmentation_n: Tensor | None, image: Tensor | Blank | None = None
    ) -> BlockInput:
        """What the first block learns from: the views the objective wants. `image`: prepared already."""
        encoder, objective = self.model.encoder, self.run.objective
        raw = encoder.prepare(self.data.images(indices_B, augmentation_n)) if image is None else image
        if isinstance(raw, Blank):
            return encoder.labelled(raw, [self.data.labels[indices_B], self.negatives_n[indices_B]])
        if not objective.needs_negatives:
            return encoder.plain(raw)
        others, masks = self._hybrid_parts(indices_B, epoch)
        negative = hybrid(raw, self.data.images(others, augmentation_n), masks)
        return torch.cat((encoder.plain(raw), encoder.plain(negative)))

    def _hybrid_parts(self, indices_B: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Which other image and which mask each image of a minibatch is mixed with, the same all epoch."""
        assert self._masks is not None
        if self._hybrids_of != epoch:
            draw, count = generator(self.run.seed, "hybrids", epoch), len(self.data)
            self._others = (
                (torch.arange(count) + torch.randint(1, max(2, count), (count,), generator=draw)) % count
            ).to(indices_B.device)
            self._mask_of = torch.randint(0, len(self._masks), (count,), generator=draw).to(indices_B.device)
            self._hybrids_of = epoch
        return self._others[indices_B], self._masks[self._mask_of[indices_B]]

    _hybrids_of = -1
    _others: Tensor
    _mask_of: Tensor

    # Chapters and epochs ----------------------------------------------------------------------------------------

    def begin_chapter(self, chapter: int) -> None:
        """New negatives, where the policy draws them now."""
        policy = self.run.negatives
        if self.run.writes_labels and isinstance(policy, LabelNegatives):
            if chapter and policy.when(self.run.order) != "chapter":
                return
            self.negatives_n.copy_(self.negatives(chapter, self.scores() if chapter and policy.needs_scores else None))

    def negatives(self, chapter: int, scores_nC: Tensor | None = None, part: range | None = None) -> Tensor:
        """The wrong labels of a chapter, by the scores where the policy wants them; without any, those of the start.

        `part`: of these images only, whose scores are given.
        """
        policy, labels = self.run.negatives, self.data.labels
        assert isinstance(policy, LabelNegatives)
        of_the_start = policy.when(self.run.order) == "run" or (policy.needs_scores and scores_nC is None)
        names: list[str | int] = ["negatives", 0 if of_the_start else chapter]
        if part is not None and len(part) < len(labels):
            labels = labels[part.start : part.stop]
            names.append(part.start)
        return policy.draw(labels, self.model.encoder.classes, scores_nC, generator(self.run.seed, *names))

    def scores(self, part: range | None = None) -> Tensor:
        """Scores of the training images (or a part of them) by the run's readout: the head, or goodness. [n, C]"""
        part = range(len(self.data)) if part is None else part
        indices = torch.arange(part.start, part.stop, device=self.data.labels.device)
        return torch.cat([self.model.scores(self.data.images(each, None)) for each in indices.split(CHUNK_ROWS)])

    def neutral_features(self, indices_B: Tensor, augmentation_n: Tensor | None) -> Tensor:
        """What the readout's head learns from, by chunks of any size. [B, ΣN]"""
        raw = self.data.images(indices_B, augmentation_n)
        with predicting(self.model.network), torch.no_grad(), self.model.autocast():
            skip: int = getattr(self.run.readout, "skip", 0)
            return features(self.model.network, self.model.encoder.neutral(raw), skip)

    def record(self, name: str, value: Tensor) -> None:
        """Keep a minibatch's record for the epoch's summary."""
        self.records.setdefault(name, []).append(value)

    def end_epoch(
        self, epoch: int, names: list[str], order_n: Tensor, batches: Iterable[int] | None = None
    ) -> EpochDone:
        """The numbers of an epoch, one row per name (a block's index or "head"); the records are dropped.

        `batches`: the minibatches that were trained, if not all.
        """
        slices = map(self.batch_slice, range(self.batches) if batches is None else batches)
        labels = [self.data.labels[order_n[r.start : r.stop]] for r in slices]
        rows = []
        for name in names:
            records = self.records.pop(name)
            if name == "head":
                numbers = accuracy_and_loss(records, labels)
            else:
                numbers = self.run.objective.summary(records, labels, self.learners[int(name)].units)
            rows.append(Row(epoch=epoch + 1, block=name if name == "head" else str(int(name) + 1), **numbers))
        return EpochDone(epoch + 1, rows)
