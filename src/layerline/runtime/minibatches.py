"""A node's work where nodes exchange after every minibatch: one stage learns one minibatch.

    block 1   learn b ─► forward b ─┐
    block 2                         learn b ─► forward b ─┐                 b: a minibatch
    head                                                  learn b, neutral

There is no stored set: a block learns from the normalised outputs of the blocks before it, which have learned from the
same minibatch already. Negatives, shifts and hybrids are a chapter's, as everywhere in chapter training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from layerline.data.dataset import Dataset
from layerline.events import EpochDone
from layerline.runtime.chapters import ChapterTrainer
from layerline.runtime.learner import BlockInput
from layerline.runtime.model import Model
from layerline.runtime.seeding import generator

_TRAINED = "trained."


class MinibatchNode(ChapterTrainer):
    """A model, its learners and the data, in `batches` minibatches an epoch.

    `whole`: the data is the whole training set; else a shard, which is cut into as many minibatches as every other.
    """

    def __init__(self, model: Model, data: Dataset, batches: int, *, whole: bool) -> None:
        super().__init__(model, data)
        self.batches, self._whole = batches, whole
        self._trained: dict[str, list[int]] = {}  # minibatches of the epoch so far, by name of the stage
        self._begun: dict[int, int] = {}  # the epoch each block has drawn its dropout for
        self._order: tuple[int, Tensor] = -1, torch.empty(0)
        self._first_inputs: tuple[tuple[int, int] | None, BlockInput] = None, torch.empty(0)
        self._drawn_for = -1

    def batch_slice(self, batch: int) -> range:
        if self._whole:
            return super().batch_slice(batch)
        count = len(self.data)
        start = batch * count // self.batches
        return range(start, max(start + 1, (batch + 1) * count // self.batches))  # a tiny shard repeats some images

    def begin_plain_chapter(self, chapter: int) -> None:
        if self._drawn_for != chapter:
            super().begin_plain_chapter(chapter)
            self._drawn_for = chapter

    def take_labels(self, parts: Sequence[Mapping[str, Tensor]]) -> None:
        super().take_labels(parts)
        self._first_inputs = None, torch.empty(0)

    def learn(self, stage: int, epoch: int, batch: int, inputs: BlockInput | None) -> None:
        """One minibatch of a stage. `inputs`: outputs of the block before; None for the first block and the head."""
        indices_B = self._indices(epoch, batch)
        labels_B = self.data.labels[indices_B]
        name = self._name(stage)
        if name == "head":
            assert self.head is not None
            features = self.neutral_features(indices_B, self._augmentation(epoch // self.run.epochs_per_chapter))
            self.record(name, self.head.learn(features, labels_B, self.head_lr(epoch, batch)))
        else:
            learner = self.learners[stage]
            if self._begun.get(stage) != epoch:
                learner.begin_epoch(generator(self.run.seed, "dropout", stage, epoch))
                self._begun[stage] = epoch
            x = self._inputs(epoch, batch) if inputs is None else inputs
            _, _, record = learner.learn(x, labels_B, self.lr(epoch, batch), batch)
            self.record(name, record)
        self._trained.setdefault(name, []).append(batch)

    @torch.no_grad()
    def forward_batch(self, stage: int, epoch: int, batch: int, inputs: Tensor | None) -> Tensor:
        """A minibatch through a block, normalised, from what that block learned from. [views · B, *shape]"""
        x = self._inputs(epoch, batch) if inputs is None else inputs
        return self.model.network.normaliser(self.learners[stage].forward(x))

    def finish_epoch(self, stage: int, epoch: int) -> EpochDone:
        """The numbers of a stage's minibatches that were trained here."""
        name = self._name(stage)
        return self.end_epoch(epoch, [name], self._order_of(epoch), self._trained.pop(name))

    # Between two sittings -------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Tensor]:
        """The whole state between two minibatches, by name."""
        trained = {f"{_TRAINED}{name}": torch.tensor(batches) for name, batches in self._trained.items()}
        return self.tensors() | trained

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a snapshot."""
        self.load({k: v for k, v in tensors.items() if not k.startswith((_TRAINED, "record."))}, self.cursor)
        for key, numbers in tensors.items():
            if key.startswith(_TRAINED):
                name = key.removeprefix(_TRAINED)
                self._trained[name] = batches = numbers.tolist()
                record = tensors[f"record.{name}"].to(self.negatives_n.device)
                sizes = [len(self.batch_slice(batch)) for batch in batches]
                per_image = len(record) // sum(sizes)
                self.records[name] = list(record.split([size * per_image for size in sizes]))

    # Minibatches ----------------------------------------------------------------------------------------------------

    def _name(self, stage: int) -> str:
        return str(stage) if stage < len(self.learners) else "head"

    def _order_of(self, epoch: int) -> Tensor:
        if self._order[0] != epoch:
            self._order = epoch, self.order(epoch)
        return self._order[1]

    def _indices(self, epoch: int, batch: int) -> Tensor:
        part = self.batch_slice(batch)
        return self._order_of(epoch)[part.start : part.stop]

    def _inputs(self, epoch: int, batch: int) -> BlockInput:
        """The first block's, which it learns from and then forwards."""
        if self._first_inputs[0] != (epoch, batch):
            x = self._first(self._indices(epoch, batch), epoch // self.run.epochs_per_chapter)
            self._first_inputs = (epoch, batch), x
        return self._first_inputs[1]
