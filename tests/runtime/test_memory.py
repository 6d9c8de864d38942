"""Memory that training frees is kept for its next step, and handed back when it ends."""

from __future__ import annotations

import platform
import resource

import pytest
import torch

from layerline.runtime.memory import kept_memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")

_MEGABYTES = 96
_PAGES = _MEGABYTES * 2**20 // resource.getpagesize()


def fresh_pages() -> int:
    """Pages that the system has to give for a large tensor that is made and freed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(_MEGABYTES * 2**20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_a_tensor_takes_the_pages_of_those_before() -> None:
    with kept_memory():
        for _ in range(8):  # the heap grows in pieces
            fresh_pages()
        assert fresh_pages() < _PAGES / 10


def test_afterwards_the_system_has_them_again() -> None:
    with kept_memory():
        fresh_pages()
    assert fresh_pages() > _PAGES / 2
