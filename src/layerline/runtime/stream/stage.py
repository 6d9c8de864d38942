"""A stage: one block of a stream with its head and its optimizer, learning from losses up to `reach` blocks ahead.

    1  x  ──► block ──► h ──────────────► the next stage            forward; the graph is kept until 4
    2               └──► head ──► loss    where a block learns from it; trains the head, gives dL/dh
    3  gradients at h:  [own, …from above], nearest loss first
    4  the loss that trains this block: dL/d(weights);  those that go on: dL/dx, sent back as they came

Problem: with a reach of N every block is trained by another loss, and a gradient must pass through blocks that it does
not train (interlocking backprop, arXiv 2010.04116). Solution: `schedules.reach` says which of the gradients at h trains
the block and which go on; nothing else is computed. With reach 1 nothing goes back at all (DGL, arXiv 1901.08164).

Examples of a minibatch may come in parts, one after the other; gradients add up until `update`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from layerline.objectives.descent import BaseDescent
from layerline.runtime.model import PRECISIONS
from layerline.runtime.seeding import drawing
from layerline.runtime.stream.model import StreamModel
from layerline.schedules.reach import Reach


@dataclass
class _Passed:
    """What a forward pass leaves for its backward pass."""

    x: Tensor
    h: Tensor
    seed: int
    left: int
    """Losses whose gradient is still to come through."""


class Stage:
    """Block number `index`; `head`: from its output to class scores (the last block's output are scores already).

    Parameters are updated in place. `dtype`: of the products. `given`: what the block computes with of its input.
    """

    def __init__(
        self,
        index: int,
        block: nn.Module,
        head: nn.Module | None,
        reach: Reach,
        optimizer: BaseDescent,
        *,
        dtype: torch.dtype = torch.float32,
        smoothing: float = 0.0,
        given: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> None:
        self.index, self.block, self.head, self.reach = index, block, head, reach
        self._last = index + 1 == reach.blocks
        self._dtype, self._smoothing, self._given = dtype, smoothing, given
        self.optimizer = optimizer
        self._block_parameters = [p for p in block.parameters() if p.requires_grad]
        self._head_parameters = [p for p in head.parameters() if p.requires_grad] if head is not None else []
        self._parameters = [p.detach() for p in self._block_parameters + self._head_parameters]
        self.moments = optimizer.init(self._parameters)
        self._gradients = [torch.zeros_like(p) for p in self._parameters]
        self._passed: dict[int, _Passed] = {}

    @property
    def pending(self) -> int:
        """Forward passes whose backward pass is still to come."""
        return len(self._passed)

    def forward(self, part: int, x: Tensor, seed: int) -> Tensor:
        """1: part number `part` of a minibatch through the block.

        What modules draw (dropout), of the head as well, depends on `seed`.
        """
        x = x.detach()
        if self.reach.crossing(self.index):
            x.requires_grad_()
        with drawing(x, seed), torch.enable_grad(), self._autocast(x):
            h: Tensor = self.block(self._given(x))
        self._passed[part] = _Passed(x, h, seed, len(self.reach.at(self.index)))
        return h.detach()

    def output_shape(self, part: int) -> tuple[int, ...]:
        """Of a microbatch whose backward pass is still to come."""
        return tuple(self._passed[part].h.shape)

    def backward(
        self, part: int, labels: Tensor, gradients: list[Tensor], share: float = 1.0
    ) -> tuple[list[Tensor], tuple[Tensor, Tensor] | None]:
        """2 to 4: from the labels, and the gradients of the losses above at this block's output, nearest first.

        `share`: of the minibatch that this part is, which its mean loss counts for. Returns the gradients at the
        block's input for the stage below, nearest first, and, where there is a loss, (loss, right answers).
        """
        record = None
        losses = self.reach.at(self.index)
        if self.reach.has_loss(self.index):
            own, record = self.own_loss(part, labels, share)
            gradients = [own, *gradients]
        found = [self.through(part, loss, gradient) for loss, gradient in zip(losses, gradients, strict=True)]
        return [gradient for gradient in found if gradient is not None], record

    def own_loss(self, part: int, labels: Tensor, share: float = 1.0) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """2 and 3: this block's own loss. Returns its gradient at the block's output; and (loss, right answers).

        The head's own gradients are added up.
        """
        h, seed = self._passed[part].h, self._passed[part].seed
        leaf = h.detach().requires_grad_()
        with torch.enable_grad():
            with drawing(h, seed + 1), self._autocast(h):  # other masks than the block's, where layers are alike
                scores = leaf if self._last or self.head is None else self.head(leaf)
            loss, right = judged(scores, labels, self._smoothing)
        own, *of_head = torch.autograd.grad(loss * share, [leaf, *self._head_parameters], materialize_grads=True)
        self._add(len(self._block_parameters), of_head)
        return own, (loss.detach(), right)

    def through(self, part: int, loss: int, gradient: Tensor) -> Tensor | None:
        """4: one loss's gradient from the block's output, where the block learns from it to the weights, and where it
        goes on to the input, which is returned. Losses may come in any order, each once."""
        passed = self._passed[part]
        passed.left -= 1
        below = loss in self.reach.crossing(self.index)
        wanted = [passed.x] if below else []
        if loss == self.reach.teacher(self.index):
            wanted += self._block_parameters
        found = torch.autograd.grad(
            passed.h, wanted, gradient.to(passed.h.dtype), retain_graph=passed.left > 0, materialize_grads=True
        )
        if loss == self.reach.teacher(self.index):
            self._add(0, found[below:])
        if not passed.left:
            del self._passed[part]
        return found[0] if below else None

    def learn_by_backward(self) -> None:
        """From now on what `backward()` adds to `.grad` of the parameters is what `update` follows."""
        parameters = self._block_parameters + self._head_parameters
        for parameter, gradient in zip(parameters, self._gradients, strict=True):
            parameter.grad = gradient

    def update(self, lr: float) -> None:
        """Follow the gradients of the minibatch, in place."""
        with torch.no_grad():
            self.optimizer.step(self.moments, self._parameters, self._gradients, lr)
            torch._foreach_zero_(self._gradients)

    def tensors(self) -> dict[str, Tensor]:
        """Everything a checkpoint needs of this stage between two minibatches, by name."""
        named = {f"block.{name}": tensor for name, tensor in self.block.state_dict().items()}
        if self.head is not None:
            named |= {f"head.{name}": tensor for name, tensor in self.head.state_dict().items()}
        return named | {f"optimizer.{name}": tensor for name, tensor in self.moments.tensors().items()}

    def _add(self, first: int, gradients: list[Tensor] | tuple[Tensor, ...]) -> None:
        if gradients:
            torch._foreach_add_(self._gradients[first : first + len(gradients)], list(gradients))

    def _autocast(self, x: Tensor) -> AbstractContextManager[object]:
        return torch.autocast(x.device.type, torch.bfloat16, enabled=self._dtype != torch.float32)


def judged(scores: Tensor, labels: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of scores [B, C] (of tokens [B, T, C]), and how many of the highest are right."""
    flat = scores.flatten(0, -2).to(torch.promote_types(scores.dtype, torch.float32))
    targets = labels.flatten()
    loss = functional.cross_entropy(flat, targets, label_smoothing=smoothing)
    with torch.no_grad():
        return loss, (flat.argmax(1) == targets).sum()


def stage_of(model: StreamModel, index: int) -> Stage:
    """The stage of a model's block, with a fresh optimizer."""
    run = model.run
    return Stage(
        index,
        model.blocks[index],
        model.head(index),
        model.reach,
        run.optimizer,
        dtype=PRECISIONS[run.precision],
        smoothing=run.smoothing,
        given=model.given,
    )
