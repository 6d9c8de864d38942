"""Negatives without labels: hybrids of two images under a smooth random mask (Hinton, arXiv 2212.13345 §3.2).

A hybrid has the short-range statistics of real images and wrong long-range ones, so telling it apart teaches shape.
The mask: random bits, blurred repeatedly with [¼, ½, ¼] both ways, thresholded at ½.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional

from layerline.errors import UsageError
from layerline.settings import Settings


class MaskedHybrid(Settings):
    """image · mask + other · (1 − mask), with another image of the same epoch; no labels anywhere."""

    kind: Literal["masked-hybrid"] = "masked-hybrid"
    blurs: int = Field(default=6, ge=1)
    """How often the mask is blurred; Hinton gives no number."""
    bank: int = Field(default=4096, ge=1)
    """Masks drawn once per run; every image of every epoch takes one of them at random."""

    def masks(self, shape: tuple[int, ...], generator: Generator) -> Tensor:
        """Boolean masks [bank, 1, height, width] for images of shape (channels, height, width)."""
        if len(shape) != 3:
            raise UsageError(
                f"masked hybrids need images, not vectors of shape {shape}",
                hint="choose label negatives: --negatives random",
            )
        bits = torch.randint(0, 2, (self.bank, 1, *shape[1:]), generator=generator).float()
        kernel = torch.tensor([0.25, 0.5, 0.25])
        for _ in range(self.blurs):
            padded = functional.pad(bits, (1, 1, 1, 1), mode="replicate")
            bits = functional.conv2d(functional.conv2d(padded, kernel.view(1, 1, 1, 3)), kernel.view(1, 1, 3, 1))
        return bits > 0.5


def hybrid(images: Tensor, others: Tensor, masks: Tensor) -> Tensor:
    """Where the mask is set the image, elsewhere the other. Images [B, channels, height, width]."""
    return torch.where(masks, images, others)
