"""Memory that a step frees stays with the process until training ends.

Problem: every step frees activations of tens of megabytes, and the next asks for as much. glibc hands the end of the
heap, and every block of more than 32 MB, back to the system at once; pages that come again are cleared and mapped one
by one, a tenth of the time of a step with large activations. Solution: glibc is told to keep them for the time of
training, up to 2 GiB, and hands all of it back afterwards.

It holds for the whole process. Where the allocator is another one (macOS, Windows, musl) nothing happens.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # numbers of malloc.h
_KEEP = 2**31 - 1, 2**30
"""Free bytes at the end of the heap that are kept; and from which size on a block is no part of the heap."""
_OWN = 2**26, 2**25
"""What glibc itself comes to when large blocks are freed."""


@contextmanager
def kept_memory() -> Iterator[None]:
    """What is freed inside is kept for what is allocated inside."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not (hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim")):
        yield
        return
    assert libc is not None
    _set(libc, _KEEP)
    try:
        yield
    finally:
        _set(libc, _OWN)
        libc.malloc_trim(0)


def _set(libc: ctypes.CDLL, thresholds: tuple[int, int]) -> None:
    trim, mmap = thresholds
    libc.mallopt(_TRIM_THRESHOLD, trim)
    libc.mallopt(_MMAP_THRESHOLD, mmap)
