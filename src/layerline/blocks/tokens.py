"""From tokens to what the first block of a language model sees: the tokens themselves, as the embedding wants them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenEncoder:
    """Prepares tokens [B, T] of a vocabulary of `classes`; the counterpart of `Encoder` for texts."""

    context: int
    classes: int
    images: ClassVar[bool] = False
    flat: ClassVar[bool] = False
    mean: ClassVar[tuple[float, ...]] = ()
    std: ClassVar[tuple[float, ...]] = ()
    dtype: ClassVar[torch.dtype] = torch.int64

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example: its tokens."""
        return (self.context,)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """What the first block sees of one example."""
        return self.shape

    def plain(self, raw: Tensor) -> Tensor:
        """int64 [B, T]."""
        return raw.long()
