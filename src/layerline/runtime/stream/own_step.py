"""A step of a block that runs freely, and how far it has come.

Problem: such a block makes more steps than there are minibatches, or fewer. By its own steps its learning rate would
end before, or after, those of the blocks that it learns from, and it would stop while they still change. Solution:
progress travels with the data. A minibatch knows its number in the data, and the learning rate goes by that; a block is
done when it has learned from the last one. At equal speeds this is the stream in step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layerline.events import Row
from layerline.runtime.stream.feed import Feed
from layerline.runtime.stream.stage import Stage
from layerline.runtime.stream.sums import Sums


class OwnSteps:
    """Of one block: `stage` learns from minibatches of `feed`."""

    def __init__(self, stage: Stage, feed: Feed, device: torch.device) -> None:
        self.stage, self.feed = stage, feed
        self._sums = Sums(stage.index, device)
        self._examples = torch.zeros((), dtype=torch.int64)
        self._furthest = torch.tensor(-1)

    @property
    def reached(self) -> int:
        """Minibatches of the data it has come past."""
        return int(self._furthest) + 1

    @property
    def epochs(self) -> int:
        """Epochs of the data it has come past."""
        return self.feed.epochs_after(int(self._furthest))

    @property
    def done(self) -> bool:
        """Whether it has learned from the last minibatch of the data."""
        return self.reached >= self.feed.steps

    def learn(self, x: Tensor, labels: Tensor, number: int, origin: int) -> tuple[Tensor, Row | None]:
        """The block's step `number` on inputs [B, …] and labels of minibatch `origin` of the data.

        Returns its outputs of before the update, [B, …], and, if it has come to the end of an epoch, the numbers of all
        its steps since the last one that it came to.
        """
        parts, outputs = self.feed.run.microbatches, []
        for part, (x_part, targets) in enumerate(zip(x.chunk(parts), labels.chunk(parts), strict=True)):
            outputs.append(self.stage.forward(part, x_part, self.feed.seed(self.stage.index, number, part)))
            _, record = self.stage.backward(part, targets, [], len(targets) / len(labels))
            assert record is not None
            self._sums.add(*record, targets)
        self.stage.update(self.feed.lr(origin))
        self._examples += len(labels)
        before = self.epochs
        self._furthest.clamp_(min=origin)
        row = self._end_epoch() if self.epochs > before else None
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs), row

    def tensors(self) -> dict[str, Tensor]:
        """Everything a checkpoint needs beside the stage, by name."""
        return self._sums.tensors() | {"examples": self._examples, "furthest": self._furthest}

    def _end_epoch(self) -> Row:
        row = self._sums.row(self.epochs, int(self._examples))
        self._examples.zero_()
        return row
