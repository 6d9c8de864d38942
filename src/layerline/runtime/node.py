"""A node's work: train a stage for an epoch, forward the set through it, make negatives; what chapters are built from.

               chapter 1        chapter 2
    block 1    ■ ■              ■ ■                 ■ one epoch, here two a chapter
    block 2        ■ ■              ■ ■
    head               ■ ■              ■ ■         then new negatives

A stage is a block, or the readout's head after the last one. It learns from the stored, normalised outputs of the stage
before it, taken once after that one's chapter (PFF, arXiv 2404.08573). Who runs which part when, and whose results it
starts from, is not decided here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from layerline.blocks.network import apply, predicting
from layerline.events import Event, Minibatch
from layerline.runtime.averaging import mean
from layerline.runtime.fitting import fit
from layerline.runtime.learner import BlockInput
from layerline.runtime.model import CHUNK_ROWS
from layerline.runtime.seeding import generator
from layerline.runtime.trainer import Trainer


class Node(Trainer):
    """A model, its learners and the data; `inputs` is what the stage that learns learns from, unless it is the first:
    [views, n, *shape] for a block, [1, n, features] for the head."""

    inputs: Tensor | None = None

    def learner_tensors(self, stage: int) -> dict[str, Tensor]:
        """A stage with its objective's part and its moments, by name; updated in place by training."""
        learner = self.head if stage == len(self.learners) else self.learners[stage]
        assert learner is not None
        return learner.tensors()

    @torch.no_grad()
    def load_block(
        self, stage: int, versions: Sequence[Mapping[str, Tensor]], moments: bool, counts: Sequence[int] = ()
    ) -> None:
        """A stage as it was trained elsewhere: one version, or the mean of several, in their order.

        `moments`: the optimizer's moments, too. `counts`: how much each version counts; left out: all the same.
        MessageRefused where a version is not of this stage's shape.
        """
        counts = counts or [1] * len(versions)
        own = {n: t for n, t in self.learner_tensors(stage).items() if moments or not n.startswith("optimizer.")}
        for version in versions:
            fit(f"stage {stage + 1} as it came", version, {name: tensor.shape for name, tensor in own.items()})
        for name, tensor in own.items():
            tensor.copy_(mean([version[name].to(tensor.device) for version in versions], counts))
        if stage < len(self.learners):
            self.learners[stage].refresh()

    def take_labels(self, parts: Sequence[Mapping[str, Tensor]]) -> None:
        """The negatives of a chapter, by somebody's scores, each part under `labels`. MessageRefused as above."""
        for part in parts:
            fit("a part of the labels as it came", part, {"labels": None})
        labels_n = torch.cat([part["labels"] for part in parts])
        fit("the labels as they came", {"labels": labels_n}, {"labels": self.negatives_n.shape})
        self.negatives_n.copy_(labels_n)

    def begin_plain_chapter(self, chapter: int) -> None:
        """The negatives of a chapter that nobody's scores decide."""
        if self.run.writes_labels:
            self.negatives_n.copy_(self.negatives(chapter))

    @property
    def stages(self) -> int:
        """Blocks, and the head where there is one."""
        return len(self.learners) + (self.head is not None)

    def epoch(self, stage: int, epoch: int, batch: int = 0) -> Iterator[Event]:
        """One epoch of a stage, from a minibatch on. Yields after every minibatch; the last one yields `EpochDone`."""
        name = str(stage) if stage < len(self.learners) else "head"
        what = f"block {stage + 1}" if name != "head" else name
        order_n = self.order(epoch)
        if name != "head":
            self.learners[stage].begin_epoch(generator(self.run.seed, "dropout", stage, epoch))
        for number in range(batch, self.batches):
            part = self.batch_slice(number)
            self._learn(stage, order_n[part.start : part.stop], epoch, number)
            if number + 1 < self.batches:
                yield Minibatch(epoch + 1, what)
        yield self.end_epoch(epoch, [name], order_n)

    def _learn(self, stage: int, indices_B: Tensor, epoch: int, batch: int) -> None:
        labels_B = self.data.labels[indices_B]
        if stage == len(self.learners):
            assert self.head is not None
            assert self.inputs is not None
            self.record("head", self.head.learn(self.inputs[0, indices_B], labels_B, self.head_lr(epoch, batch)))
            return
        if stage == 0:
            x = self._first(indices_B, epoch // self.run.epochs_per_chapter)
        else:
            assert self.inputs is not None
            x = self.inputs[:, indices_B].flatten(0, 1)
        _, _, record = self.learners[stage].learn(x, labels_B, self.lr(epoch, batch), batch)
        self.record(str(stage), record)

    def _first(self, indices_B: Tensor, chapter: int) -> BlockInput:
        """The first block's input; shifts and hybrids are drawn once a chapter, so that every block sees the same."""
        return self.first_input(indices_B, chapter, self._augmentation(chapter))

    def _augmentation(self, chapter: int) -> Tensor | None:
        if self._augmented_for != chapter:
            self._augmentation_n = self.data.augmentation(chapter)
            self._augmented_for = chapter
        return self._augmentation_n

    _augmentation_n: Tensor | None
    _augmented_for = -1

    @torch.no_grad()
    def forward(self, stage: int, chapter: int, inputs: Tensor | None) -> Tensor:
        """The whole set through block `stage`, normalised, from what that block learns from. [views, n, *shape]"""
        views, normaliser = self.run.objective.views, self.model.network.normaliser
        outputs: Tensor | None = None
        with predicting(self.model.network), self.model.autocast():
            for part in self._parts(CHUNK_ROWS // views):
                if stage == 0:
                    x = self._first(part, chapter)
                else:
                    assert inputs is not None
                    x = inputs[:, part[0] : part[-1] + 1].flatten(0, 1)
                h = normaliser(apply(self.model.network.blocks[stage], x))
                if outputs is None:  # one store from the start: joining parts would touch as much memory again
                    outputs = h.new_empty(views, len(self.data), *h.shape[1:])
                outputs[:, part[0] : part[-1] + 1] = h.view(views, len(part), *h.shape[1:])
        assert outputs is not None
        return outputs

    def features(self, chapter: int) -> Tensor:
        """What the readout's head learns from: the neutral view through all blocks. [1, n, ΣN]"""
        augmentation_n = self._augmentation(chapter)
        return torch.cat([self.neutral_features(part, augmentation_n) for part in self._parts(CHUNK_ROWS)])[None]

    def _parts(self, rows: int) -> tuple[Tensor, ...]:
        return torch.arange(len(self.data), device=self.data.labels.device).split(rows)
