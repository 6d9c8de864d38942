"""Losses on goodness: what a block wants of its positives and negatives.

Each states its value for autograd and its two slopes in closed form, for B pairs of a positive and a negative view.
G⁺, G⁻: goodness of the positive and the negative view, float32 [B].
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from layerline.settings import Settings


class BaseLoss(Settings):
    """A loss of a pair of goodnesses."""

    @abstractmethod
    def value(self, positive_B: Tensor, negative_B: Tensor) -> Tensor:
        """The loss of every pair, [B]."""

    @abstractmethod
    def slopes(self, positive_B: Tensor, negative_B: Tensor) -> tuple[Tensor, Tensor]:
        """d value / d G⁺ and d value / d G⁻, [B] each."""


class Logistic(BaseLoss):
    """softplus(θ − G⁺) + softplus(G⁻ − θ): Hinton, arXiv 2212.13345 eq. 1, and the PFF paper eq. 1–2."""

    kind: Literal["logistic"] = "logistic"
    theta: float = 1.0
    """Threshold on the goodness. Hinton: the width for the sum of squares, 1 for the mean. PFF: the text says 0.01,
    the authors' code 0.01 · width (20 at 2000 units) on the mean."""

    def value(self, positive_B: Tensor, negative_B: Tensor) -> Tensor:
        return functional.softplus(self.theta - positive_B) + functional.softplus(negative_B - self.theta)

    def slopes(self, positive_B: Tensor, negative_B: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sigmoid(self.theta - positive_B).neg_(), torch.sigmoid(negative_B - self.theta)


class SymBa(BaseLoss):
    """softplus(−α (G⁺ − G⁻)): no threshold, positives and negatives balanced (Lee and Song, arXiv 2303.08418)."""

    kind: Literal["symba"] = "symba"
    alpha: float = Field(default=4.0, gt=0)
    """Steepness; the authors' 4."""

    def value(self, positive_B: Tensor, negative_B: Tensor) -> Tensor:
        return functional.softplus(-self.alpha * (positive_B - negative_B))

    def slopes(self, positive_B: Tensor, negative_B: Tensor) -> tuple[Tensor, Tensor]:
        slope = torch.sigmoid(-self.alpha * (positive_B - negative_B)).mul_(self.alpha)
        return slope.neg(), slope


class SiluMargin(BaseLoss):
    """SiLU(−β (G⁺ − G⁻)), the swish margin: pairs far on the wrong side pull less than with softplus."""

    kind: Literal["silu-margin"] = "silu-margin"
    beta: float = Field(default=8.0, gt=0)
    """Steepness, 6–8 in the literature; 12 is faster with shifted images."""

    def value(self, positive_B: Tensor, negative_B: Tensor) -> Tensor:
        return functional.silu(-self.beta * (positive_B - negative_B))

    def slopes(self, positive_B: Tensor, negative_B: Tensor) -> tuple[Tensor, Tensor]:
        margin = (negative_B - positive_B).mul_(self.beta)
        sigmoid = torch.sigmoid(margin)
        slope = margin.mul_(1 - sigmoid).add_(1).mul_(sigmoid).mul_(self.beta)
        return slope.neg(), slope


Loss = Annotated[Logistic | SymBa | SiluMargin, Field(discriminator="kind")]
