"""Forward-Forward: raise the goodness of positive views, lower it of negative ones.

1. goodness  G = mean_j h_j²  (or the sum)                           Hinton §2; the PFF authors' code takes the mean
2. loss      of each pair (G⁺, G⁻), averaged over the pairs          see `losses`
3. closed    dL/dz = dL/dG · (2/N) · h                               h = 0 where the ReLU is off, so no mask is needed
4. peer      dL/dz⁺ −= (2/N) · λ · (mean_k m_k − m_j)                Hinton's script; m: running mean activity,
             on positive rows, not gated by h > 0, so that dead units come back
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from layerline.blocks.normaliser import row_norms
from layerline.objectives.base import BaseObjective
from layerline.objectives.losses import Loss, SiluMargin


class ForwardForward(BaseObjective):
    """Goodness of two views (Hinton, arXiv 2212.13345; PFF, arXiv 2404.08573 §3)."""

    kind: Literal["forward-forward"] = "forward-forward"
    needs_negatives: ClassVar[bool] = True

    goodness: Literal["mean", "sum"] = "mean"
    """Mean (PFF authors' code) or sum (Hinton, PFF's text) of the squared activities."""
    loss: Loss = SiluMargin()
    """What is asked of a pair: logistic with θ (the papers), SymBa, or the SiLU margin."""
    peer: float = Field(default=0.0, ge=0)
    """Peer normalisation λ: pulls every unit's mean activity to the block's; Hinton's script: 0.03, PFF: none. Reaches
    dead units in Linear + ReLU blocks; in modules of one's own the gradient passes active units only."""
    peer_decay: float = Field(default=0.9, ge=0, lt=1)
    """Smoothing of the running mean activity; Hinton's 0.9, starting at 0.5."""

    def per_unit(self, units: int) -> float:
        """1/N for the mean, 1 for the sum."""
        return 1 / units if self.goodness == "mean" else 1.0

    def of_norms(self, norms_R: Tensor, units: int) -> Tensor:
        """Goodness from the L2 norms of the rows, [R]."""
        return norms_R.square().mul_(self.per_unit(units))

    def init(self, units: int, classes: int) -> nn.Module:
        state = nn.Module()
        if self.peer:
            state.register_buffer("mean_activity", torch.full((units,), 0.5))
        return state

    def local_loss(self, h: Tensor, labels_B: Tensor, state: nn.Module, batch: int) -> tuple[Tensor, Tensor]:
        norms_R = row_norms(h)
        units = h[0].numel()
        positive_B, negative_B = norms_R.square().mul(self.per_unit(units)).chunk(2)
        value = self.loss.value(positive_B, negative_B).mean()
        if self.peer:
            positive_BN = h.chunk(2)[0].flatten(1).float()
            value = value + (positive_BN * self._peer_slope(positive_BN.detach(), state)).sum()
        return value, norms_R.detach()

    def relu_gradient(
        self, h_RN: Tensor, norms_R: Tensor, labels_B: Tensor, state: nn.Module, batch: int, out_RN: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        rows, units = h_RN.shape
        pairs = rows // 2
        slopes = self.loss.slopes(*self.of_norms(norms_R, units).chunk(2))
        factor_R = torch.cat(slopes).mul_(2 * self.per_unit(units) / pairs).to(h_RN.dtype)
        torch.mul(h_RN, factor_R[:, None], out=out_RN)
        if self.peer:
            out_RN[:pairs] += self._peer_slope(h_RN[:pairs], state).to(out_RN.dtype)
        return norms_R, []

    def _peer_slope(self, positive_BN: Tensor, state: Any) -> Tensor:
        """Updates the running mean; dL/dz of the peer term for every positive row, [N]."""
        mean_N: Tensor = state.mean_activity
        mean_N.lerp_(positive_BN.mean(0, dtype=torch.float32), 1 - self.peer_decay)
        pairs, units = positive_BN.shape
        return (mean_N - mean_N.mean()).mul_(2 * self.per_unit(units) * self.peer / pairs)

    def summary(self, records: Iterable[Tensor], labels: Iterable[Tensor], units: int) -> dict[str, float]:
        halves = [self.of_norms(norms_R, units).chunk(2) for norms_R in records]
        positive = torch.cat([half[0] for half in halves])
        negative = torch.cat([half[1] for half in halves])
        return {
            "loss": self.loss.value(positive, negative).mean().item(),
            "goodness_positive": positive.mean().item(),
            "goodness_negative": negative.mean().item(),
            "accuracy": (positive > negative).float().mean().item(),
        }
