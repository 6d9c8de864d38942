"""How many threads compute: part of a run, as the last bits depend on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from layerline.base_run import BaseRun


@contextmanager
def compute_threads(run: BaseRun) -> Iterator[None]:
    """The run's compute threads; afterwards the caller's again."""
    before = torch.get_num_threads()
    torch.set_num_threads(run.threads or 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
