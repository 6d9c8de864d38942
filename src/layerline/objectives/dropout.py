"""Dropout masks from a bank.

Problem: drawing a fresh mask for every minibatch (B × N random numbers) costs more than the block's matrix product.
Solution: one long bank of masks is drawn per epoch; a minibatch takes a window of it, at an offset of its own. A mask
is a pure function of (seed, block, epoch, minibatch), so an interrupted epoch goes on with the same masks.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

_BANK = 1 << 22  # masks drawn per epoch; a minibatch of 256 × 2000 uses an eighth of it
_STRIDE = 1_000_003  # a prime step between the windows of consecutive minibatches


class DropoutMasks:
    """Masks of 0 and 1/(1 − rate), in bfloat16 (their values are rounded the same in every precision)."""

    def __init__(self, rate: float, device: torch.device, generator: Generator) -> None:
        kept = torch.randint(0, 1 << 16, (_BANK,), generator=generator, dtype=torch.int32) >= rate * (1 << 16)
        self._bank = (kept.to(torch.bfloat16) / (1 - rate)).to(device)

    def __getstate__(self) -> dict[str, Tensor]:
        """Copies and pickles of a model do without the bank: every epoch draws its own."""
        return {"_bank": self._bank.new_empty(0)}

    def take(self, batch: int, rows: int, units: int) -> Tensor:
        """The mask of minibatch number `batch`, [rows, units]; a window of the bank, not to be written to."""
        size = rows * units
        # A window too long to move in the bank moves in repetitions of it.
        bank = self._bank if 2 * size <= _BANK else self._bank.repeat(-(-size // _BANK) + 1)
        start = (batch * _STRIDE) % (bank.numel() - size + 1)
        return bank[start : start + size].view(rows, units)
