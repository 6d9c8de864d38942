"""Masks of hybrids: about half set, smooth, and a hybrid is one image inside and the other outside."""

from __future__ import annotations

import pytest
import torch

from layerline.errors import UsageError
from layerline.negatives.masks import MaskedHybrid, hybrid


def masks(blurs: int = 6, bank: int = 400, shape: tuple[int, ...] = (3, 28, 28)) -> torch.Tensor:
    return MaskedHybrid(blurs=blurs, bank=bank).masks(shape, torch.Generator().manual_seed(0))


def changes(bits: torch.Tensor) -> float:
    """How often neighbours in a row differ; for independent bits: a half."""
    return (bits[..., 1:] != bits[..., :-1]).float().mean().item()


def test_shape_and_share() -> None:
    bits = masks()
    assert bits.shape == (400, 1, 28, 28)
    assert bits.dtype == torch.bool
    assert bits.float().mean().item() == pytest.approx(0.5, abs=0.03)
    share = bits.float().mean((1, 2, 3))
    assert share.min() > 0.1
    assert share.max() < 0.9
    assert torch.equal(bits, masks())


def test_blurring_makes_large_patches() -> None:
    by_blurs = [changes(masks(blurs)) for blurs in (1, 3, 6, 12)]
    assert by_blurs == sorted(by_blurs, reverse=True)
    assert by_blurs[0] < 0.35
    assert by_blurs[2] < 0.2
    across, down = changes(masks()), changes(masks().transpose(2, 3))
    assert across == pytest.approx(down, rel=0.1), "both ways alike"


def test_hybrid() -> None:
    images, others = torch.full((4, 3, 8, 8), 7, dtype=torch.uint8), torch.full((4, 3, 8, 8), 9, dtype=torch.uint8)
    bits = masks(bank=4, shape=(3, 8, 8))
    mixed = hybrid(images, others, bits)
    assert mixed.dtype == torch.uint8
    inside = bits.expand_as(mixed)
    assert set(mixed[inside].tolist()) == {7}
    assert set(mixed[~inside].tolist()) == {9}


def test_vectors_have_no_neighbours() -> None:
    with pytest.raises(UsageError, match="need images"):
        masks(shape=(64,))
