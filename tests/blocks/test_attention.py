"""Attention as written and PyTorch's fused one are the same function, whichever is taken."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from layerline.blocks import transformer
from layerline.blocks.transformer import attend


def draws(length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v, [2, 3, length, 4]."""
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, length, 4, generator=draw).to(dtype).requires_grad_() for _ in range(3))
    return q, k, v


def reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Position by position."""
    rows = []
    for t in range(q.shape[-2]):
        scores = (q[..., t : t + 1, :] * k[..., : t + 1, :]).sum(-1) / q.shape[-1] ** 0.5
        rows.append((scores.softmax(-1)[..., None] * v[..., : t + 1, :]).sum(-2))
    return torch.stack(rows, -2)


@pytest.mark.parametrize("short", [0, 512])
@pytest.mark.parametrize("length", [1, 2, 7])
def test_every_position_sees_itself_and_those_before(short: int, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformer, "_SHORT", short)
    inputs = draws(length, torch.float64)
    wanted, found = reference(*inputs), attend(*inputs)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    upstream = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad(wanted, inputs, upstream), torch.autograd.grad(found, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-12)


def test_in_bfloat16_it_is_as_exact_as_the_fused_one() -> None:
    exact = reference(*draws(64, torch.float32))
    inputs = draws(64, torch.bfloat16)
    fused = functional.scaled_dot_product_attention(*inputs, is_causal=True)
    assert (attend(*inputs) - exact).abs().mean() < 1.5 * (fused - exact).abs().mean()
    assert attend(*inputs).dtype == torch.bfloat16


def test_dropout_takes_attention_weights_and_scales_the_others() -> None:
    q, k = torch.zeros(1, 1, 8, 4), torch.zeros(1, 1, 8, 4)
    torch.manual_seed(0)
    mixed = torch.stack([attend(q, k, torch.eye(8)[None, None], 0.5)[0, 0, -1] for _ in range(500)])
    assert set(mixed.unique().tolist()) == {0.0, 0.25}  # an eighth, or twice that
    assert mixed.mean().item() == pytest.approx(0.125, abs=0.01)
