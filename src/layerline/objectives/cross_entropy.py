"""Cross-entropy of a softmax head on what learns: a block, or the whole network.

    loss = CE(M h + m, y)

No negatives and no label in the input. Closed form for Linear + ReLU, B images:

1. D = (softmax(M h + m) − onehot(y)) / B        [B, C]
2. dM = Dᵀ h,  dm = Σ D                          the head
3. dL/dz = (D M) where h > 0                     the block; with dropout before the head both use the thinned h
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional

from layerline.blocks.head import LinearHead, accuracy_and_loss, cross_entropy_slope
from layerline.objectives.base import BaseObjective
from layerline.objectives.dropout import DropoutMasks


class BaseCrossEntropy(BaseObjective):
    """A linear softmax head; see `LocalCrossEntropy` and `Backprop`."""

    needs_negatives: ClassVar[bool] = False

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Fraction of the outputs hidden from their head while training (the next block sees all); the papers: none."""

    def init(self, units: int, classes: int) -> nn.Module:
        return LinearHead(units, classes)

    def begin_epoch(self, state: Any, units: int, generator: Generator) -> None:
        if self.dropout:
            state.masks = DropoutMasks(self.dropout, state.weight.device, generator)

    def local_loss(self, h: Tensor, labels_B: Tensor, state: Any, batch: int) -> tuple[Tensor, Tensor]:
        h_BN = h.flatten(1)
        if self.dropout:
            h_BN = h_BN * state.masks.take(batch, *h_BN.shape).to(h.dtype)
        logits_BC = state(h_BN)
        return functional.cross_entropy(logits_BC, labels_B), logits_BC.detach()

    def relu_gradient(
        self, h_RN: Tensor, norms_R: Tensor, labels_B: Tensor, state: Any, batch: int, out_RN: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        seen_BN = h_RN
        if self.dropout:
            mask_BN = state.masks.take(batch, *h_RN.shape)
            seen_BN = h_RN * mask_BN
        logits_BC = state(seen_BN)
        slope_BC = cross_entropy_slope(logits_BC, labels_B)
        torch.mm(slope_BC.to(h_RN.dtype), state.weight.to(h_RN.dtype), out=out_RN)
        if self.dropout:
            out_RN *= mask_BN
        torch.ops.aten.threshold_backward.grad_input(out_RN, h_RN, 0, grad_input=out_RN)
        return logits_BC, state.gradients(seen_BN, slope_BC)

    def summary(self, records: Iterable[Tensor], labels: Iterable[Tensor], units: int) -> dict[str, float]:
        return accuracy_and_loss(records, labels)
