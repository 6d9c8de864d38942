"""Dropout masks: right rate, a function of epoch and minibatch, and never the same twice in a row."""

from __future__ import annotations

import pytest
import torch

from layerline.objectives.dropout import DropoutMasks

CPU = torch.device("cpu")


def masks(rate: float = 0.25, seed: int = 0) -> DropoutMasks:
    return DropoutMasks(rate, CPU, torch.Generator().manual_seed(seed))


def test_rate_and_scale() -> None:
    mask = masks(0.25).take(0, 500, 400).float()
    kept = float(torch.tensor(1 / 0.75).bfloat16())
    assert set(mask.unique().tolist()) == {0.0, kept}
    assert (mask == 0).float().mean().item() == pytest.approx(0.25, abs=0.005)
    assert mask.mean().item() == pytest.approx(1, abs=0.01)


def test_a_function_of_epoch_and_minibatch() -> None:
    a, b = masks(), masks()
    a.take(0, 100, 50)
    assert torch.equal(a.take(3, 100, 50), b.take(3, 100, 50))
    assert not torch.equal(a.take(3, 100, 50), a.take(4, 100, 50))
    assert not torch.equal(a.take(3, 100, 50), masks(seed=1).take(3, 100, 50))


@pytest.mark.parametrize("rows", [2048, 3000])
def test_windows_as_long_as_the_bank(rows: int) -> None:
    """They repeated the same mask all epoch, or depended on whether a larger minibatch had come before."""
    a, b = masks(), masks()
    first, second = a.take(0, rows, 2048), a.take(1, rows, 2048)
    assert first.shape == (rows, 2048)
    assert not torch.equal(first, second)
    assert torch.equal(a.take(2, 7, 2048), b.take(2, 7, 2048))
    assert torch.equal(b.take(1, rows, 2048), second)
