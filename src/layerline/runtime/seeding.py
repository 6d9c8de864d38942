"""Randomness as a function of names: every draw has a generator of its own.

A stream of random numbers that runs through a training has to be saved, and breaks when work is reordered. Here a draw
is a pure function of the run's seed and of what it is for (`"negatives", chapter`), so any part of a run can be
computed again, anywhere, to the same bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator, Tensor


def generator(seed: int, *names: str | int) -> Generator:
    """A CPU generator for one draw."""
    digest = hashlib.blake2b(repr((seed, *names)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


@contextmanager
def drawing(x: Tensor, seed: int) -> Iterator[None]:
    """torch's own generators (of `x`'s device), seeded inside and as they were afterwards."""
    if x.is_cuda:
        with torch.random.fork_rng([x.device]):
            torch.manual_seed(seed)
            yield
        return
    generator = torch.default_generator  # by itself: `torch.manual_seed` goes through all kinds of devices, in 0.2 ms
    before = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(before)
