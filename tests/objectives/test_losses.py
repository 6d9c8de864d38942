"""Losses on goodness: their values by hand, their slopes by autograd in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerline.objectives.forward_forward import ForwardForward
from layerline.objectives.losses import Logistic, Loss, SiluMargin, SymBa

GOODNESS = st.lists(st.tuples(st.floats(0, 50), st.floats(0, 50)), min_size=1, max_size=8)
LOSSES = st.one_of(
    st.builds(Logistic, theta=st.floats(-5, 30)),
    st.builds(SymBa, alpha=st.floats(0.1, 8)),
    st.builds(SiluMargin, beta=st.floats(0.1, 12)),
)


def softplus(x: float) -> float:
    return math.log1p(math.exp(-abs(x))) + max(x, 0.0)


@given(pairs=GOODNESS, loss=LOSSES)
@settings(max_examples=150, deadline=None)
def test_values_and_slopes(pairs: list[tuple[float, float]], loss: Loss) -> None:
    positive, negative = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in zip(*pairs, strict=True))
    values = loss.value(positive, negative)
    for (p, n), value in zip(pairs, values.tolist(), strict=True):
        if isinstance(loss, Logistic):
            expected = softplus(loss.theta - p) + softplus(n - loss.theta)
        elif isinstance(loss, SymBa):
            expected = softplus(-loss.alpha * (p - n))
        else:
            m = -loss.beta * (p - n)
            expected = m / (1 + math.exp(-m)) if m > -700 else 0.0
        assert value == pytest.approx(expected, rel=1e-6, abs=1e-8)
    expected_slopes = torch.autograd.grad(values.sum(), [positive, negative])
    inputs = positive.detach(), negative.detach()
    kept = [v.clone() for v in inputs]
    for slope, exact in zip(loss.slopes(*inputs), expected_slopes, strict=True):
        torch.testing.assert_close(slope, exact, rtol=1e-8, atol=1e-9)
    assert all(torch.equal(a, b) for a, b in zip(inputs, kept, strict=True)), "goodness is left as it was"


def test_hintons_logistic_by_hand() -> None:
    """At θ both views cost log 2 and pull with a half."""
    loss = Logistic(theta=2.0)
    at = torch.tensor([2.0])
    assert loss.value(at, at).item() == pytest.approx(2 * math.log(2))
    positive, negative = loss.slopes(at, at)
    assert (positive.item(), negative.item()) == (-0.5, 0.5)
    far = torch.tensor([200.0])
    assert loss.value(far, torch.zeros(1)).item() == pytest.approx(softplus(-2.0))


def test_the_threshold_says_where_the_even_probability_lies() -> None:
    """Hinton: p(positive) = σ(G − θ), and the loss is −log of what is right."""
    loss, positive, negative = Logistic(theta=1.3), torch.tensor([1.9]), torch.tensor([0.4])
    right = torch.sigmoid(positive - 1.3) * (1 - torch.sigmoid(negative - 1.3))
    torch.testing.assert_close(loss.value(positive, negative), -right.log())


def test_summary_by_hand() -> None:
    objective = ForwardForward(goodness="mean", loss=SymBa(alpha=1.0))
    # Minibatches of 2 and 1 images: norms of positive rows, then of negative ones.
    records = [torch.tensor([2.0, 4.0, 3.0, 1.0]), torch.tensor([6.0, 2.0])]
    numbers = objective.summary(records, [], units=4)
    goodness_positive, goodness_negative = [1.0, 4.0, 9.0], [2.25, 0.25, 1.0]
    losses = [softplus(n - p) for p, n in zip(goodness_positive, goodness_negative, strict=True)]
    assert numbers == pytest.approx(
        {
            "loss": sum(losses) / 3,
            "goodness_positive": 14 / 3,
            "goodness_negative": 3.5 / 3,
            "accuracy": 2 / 3,
        }
    )
    assert ForwardForward(goodness="sum").of_norms(torch.tensor([3.0]), 4).item() == 9.0
