"""What noise promises, and what it holds."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layerline.errors import UsageError
from layerline.transport.privacy import LocalDp, exact_delta


@given(epsilon=st.floats(0.05, 6.0), mu=st.floats(0.1, 3.0))
def test_delta_is_the_area_by_which_one_density_exceeds_the_other(epsilon: float, mu: float) -> None:
    """That is what it is defined as: ∫ max(0, p − e^ε·q), of two normal densities μ apart."""
    x = torch.linspace(-14, 17, 200_001, dtype=torch.float64)
    p, q = (torch.exp(-((x - at) ** 2) / 2) / math.sqrt(2 * math.pi) for at in (mu, 0.0))
    area = float(torch.trapezoid((p - math.exp(epsilon) * q).clamp(min=0), x))
    assert exact_delta(epsilon, mu) == pytest.approx(area, rel=1e-3, abs=1e-12)


@given(epsilon=st.floats(0.01, 0.999), delta=st.floats(1e-15, 0.999))
def test_below_one_the_formula_keeps_its_word(epsilon: float, delta: float) -> None:
    """As Dwork and Roth prove."""
    LocalDp(epsilon=epsilon, delta=delta)


@given(epsilon=st.floats(0.01, 100), delta=st.floats(1e-15, 0.999), clipping=st.floats(0.01, 100))
def test_what_is_accepted_is_private(epsilon: float, delta: float, clipping: float) -> None:
    try:
        privacy = LocalDp(epsilon=epsilon, delta=delta, clipping=clipping)
    except UsageError:
        return
    assert exact_delta(epsilon, 2 * clipping / privacy.deviation) <= delta
