"""Some blocks in a row as one module, for PyTorch's pipelines and DDP, on microbatches that all have the same shape.

Problem: PyTorch's pipelines want microbatches of one size, and the last minibatch of an epoch has fewer examples.
Solution: what travels always has `rows` rows, of which the first are examples and the others zeros. Blocks see the
examples only, so that batch norm learns nothing of the zeros:

    x [rows, …] ─► the first n ─► blocks ─► h [n, …] ─► with zeros to [rows, …]

A part that is not there (n = 0: a minibatch too small for all) gives zeros that depend on everything, so that all
gradients are made, and are 0.

Which n, and what dropout draws, follows from the step and the microbatch's number; both come beside x. Tensors travel
with their dimensions in order, and lie for the blocks as convolutions like it: `_lie` changes that both ways.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from layerline.runtime.seeding import drawing
from layerline.runtime.stream.feed import Feed
from layerline.runtime.stream.model import StreamModel


class Part(nn.Module):
    """The blocks `numbers` of a model. Parameters are the model's."""

    def __init__(self, model: StreamModel, numbers: Sequence[int], feed: Feed, rows: int) -> None:
        super().__init__()
        self.numbers, self._feed, self._rows = numbers, feed, rows
        self.blocks = nn.ModuleList(model.blocks[number] for number in numbers)
        self._autocast = model.autocast
        self._channels_last = model.layout == torch.channels_last

    def forward(self, x: Tensor, at_12: Tensor) -> Tensor:
        """x [rows, …] to [rows, …]. `at_12`: step and microbatch."""
        step, part = at_12[0].tolist()
        count = self._feed.count(step, part)
        h = _lie(x if count == self._rows else x[: count or 1], inside=self._channels_last)
        for number, block in zip(self.numbers, self.blocks, strict=True):
            with drawing(h, self._feed.seed(number, step, part)), self._autocast(h.device), _learning(block, count > 0):
                h = block(h)
        h = _lie(h, inside=False) if count else 0 * _lie(h, inside=False)
        missing = self._rows - len(h)
        return functional.pad(h, (0, 0) * (h.ndim - 1) + (0, missing)) if missing else h


@contextmanager
def _learning(block: nn.Module, learns: bool) -> Iterator[None]:
    """Inside, a block of a part that is not there is in evaluation mode: batch norm learns nothing of it."""
    block.train(learns)
    try:
        yield
    finally:
        block.train()


class _Lie(torch.autograd.Function):
    """The same numbers in another layout; the gradient in the one that x had."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, inside: bool) -> Tensor:
        ctx.inside = inside
        return x.clone(memory_format=_format(x, inside))  # no view: PyTorch cuts graphs at it

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return gradient.contiguous(memory_format=_format(gradient, not ctx.inside)), None


def _lie(x: Tensor, *, inside: bool) -> Tensor:
    """As blocks like it (images: channels last), or as it travels."""
    result: Tensor = _Lie.apply(x, inside)  # type: ignore[no-untyped-call]
    return result


def _format(x: Tensor, inside: bool) -> torch.memory_format:
    return torch.channels_last if inside and x.ndim == 4 else torch.contiguous_format


def padded(tensors: Sequence[Tensor], rows: int, parts: int, value: int = 0) -> Tensor:
    """Microbatches one after the other, [parts · rows, …], each with rows of `value` up to `rows`."""
    whole = tensors[0].new_full((parts, rows, *tensors[0].shape[1:]), value)
    for part, tensor in enumerate(tensors):
        whole[part, : len(tensor)] = tensor
    return whole.flatten(0, 1)
