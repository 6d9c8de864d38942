"""Randomness as a function of names: every draw has a generator of its own.

A stream of random numbers that runs through a training has to be saved, and breaks when work is reordered. Here a draw
is a pure function of the run's seed and of what it is for (`"negatives", chapter`), so any part of a run can be
computed again, anywhere, to the same bits.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Generator


def generator(seed: int, *names: str | int) -> Generator:
    """A CPU generator for one draw."""
    digest = hashlib.blake2b(repr((seed, *names)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
