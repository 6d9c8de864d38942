"""A step of a block that runs freely: from its own loss; or as in prediction, when it has had all its steps."""

from __future__ import annotations

import torch
from torch import Tensor

from layerline.blocks.network import predicting
from layerline.runtime.stream.feed import Feed
from layerline.runtime.stream.model import StreamModel
from layerline.runtime.stream.stage import Stage


def learn(stage: Stage, feed: Feed, x: Tensor, labels: Tensor, number: int, sums: tuple[Tensor, Tensor]) -> Tensor:
    """The block's step `number` on inputs [B, …] and labels: its outputs of before the update, [B, …].

    `sums`: of losses and of right answers, float64 []; what this minibatch gave is added to them.
    """
    parts, outputs = feed.run.microbatches, []
    losses, right = sums
    for part, (x_part, targets) in enumerate(zip(x.chunk(parts), labels.chunk(parts), strict=True)):
        outputs.append(stage.forward(part, x_part, feed.seed(stage.index, number, part)))
        _, record = stage.backward(part, targets, [], len(targets) / len(labels))
        assert record is not None
        losses += record[0] * len(targets)
        right += record[1] * len(targets) / targets.numel()
    stage.update(feed.lr(number))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def pass_on(stage: Stage, model: StreamModel, x: Tensor) -> Tensor:
    """The outputs of a block that no longer changes."""
    with predicting(stage.block), torch.no_grad(), model.autocast(x.device):
        h: Tensor = stage.block(x)
    return h
