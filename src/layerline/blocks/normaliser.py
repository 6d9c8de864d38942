"""Normalisers: what happens to a block's output before the next block sees it.

A block raises the length of its output on positive data. Were that length passed on, the next block could read the
answer off it and learn nothing; dividing by it leaves the direction only (Hinton, arXiv 2212.13345 §2.1).

All take rows `[R, …]` and treat everything but the first axis as one vector of N units. The vector's L2 norm can be
handed in where the goodness has computed it already.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from layerline.settings import Settings


def row_norms(rows: Tensor) -> Tensor:
    """L2 norm of every row over all its units, in float32. [R, …] -> [R]"""
    return torch.linalg.vector_norm(rows.flatten(1), dim=1, dtype=torch.float32)


class BaseNormaliser(Settings):
    """A normaliser states a factor for each row; applying it is the same for all."""

    @abstractmethod
    def scale(self, norms_R: Tensor, units: int) -> Tensor:
        """The factor for each row, float32 [R], from its L2 norm and its number of units."""

    def __call__(self, rows: Tensor, norms_R: Tensor | None = None) -> Tensor:
        """Rows scaled; a new tensor of the same shape and dtype."""
        norms_R = row_norms(rows) if norms_R is None else norms_R
        scale_R = self.scale(norms_R, rows[0].numel()).to(rows.dtype)
        return rows * scale_R.view(-1, *[1] * (rows.ndim - 1))


class RmsNorm(BaseNormaliser):
    """Mean square 1 (Hinton's script)."""

    kind: Literal["rms"] = "rms"
    eps: float = Field(default=1e-6, ge=0)
    """Added to the mean square."""

    def scale(self, norms_R: Tensor, units: int) -> Tensor:
        return norms_R.square().div_(units).add_(self.eps).rsqrt_()


class L2Norm(BaseNormaliser):
    """Length 1: x / (|x| + eps), as in the PFF authors' code."""

    kind: Literal["l2"] = "l2"
    eps: float = Field(default=1e-4, ge=0)
    """Added to the length; the authors' 1e-4."""

    def scale(self, norms_R: Tensor, units: int) -> Tensor:
        return norms_R.add(self.eps).reciprocal_()


class NoNorm(BaseNormaliser):
    """The output as it is."""

    kind: Literal["none"] = "none"

    def scale(self, norms_R: Tensor, units: int) -> Tensor:
        return torch.ones_like(norms_R)

    def __call__(self, rows: Tensor, norms_R: Tensor | None = None) -> Tensor:
        return rows


Normaliser = Annotated[RmsNorm | L2Norm | NoNorm, Field(discriminator="kind")]
