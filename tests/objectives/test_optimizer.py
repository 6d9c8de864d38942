"""Adam against its formula, and how the rate goes over a run."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layerline.objectives.optimizer import Adam, Constant, CoolDown, Cosine


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adam_by_hand(weight_decay: float) -> None:
    """Kingma and Ba, algorithm 1, in float64; L2 is added to the gradient."""
    adam = Adam(lr=0.05, beta1=0.8, beta2=0.95, eps=1e-6, weight_decay=weight_decay)
    draw = torch.Generator().manual_seed(0)
    parameters = [torch.randn(3, 4, generator=draw), torch.randn(5, generator=draw)]
    states = [[p.double().numpy().copy(), np.zeros(p.shape), np.zeros(p.shape)] for p in parameters]
    state = adam.init(parameters)
    for step in range(1, 6):
        rate = 0.05 / step
        gradients = [torch.randn(p.shape, generator=draw) for p in parameters]
        adam.step(state, parameters, gradients, rate)
        for own, gradient in zip(states, gradients, strict=True):
            g = gradient.double().numpy() + weight_decay * own[0]
            own[1] = 0.8 * own[1] + 0.2 * g
            own[2] = 0.95 * own[2] + 0.05 * g * g
            own[0] = own[0] - rate * (own[1] / (1 - 0.8**step)) / (np.sqrt(own[2] / (1 - 0.95**step)) + 1e-6)
    for p, own in zip(parameters, states, strict=True):
        np.testing.assert_allclose(p.numpy(), own[0], rtol=1e-4, atol=1e-5)
    assert [float(s) for s in state.steps] == [5.0, 5.0]
    assert sorted(state.tensors()) == [f"{n}.{i}" for n in ("first", "second", "steps") for i in (0, 1)]


def test_default_rate_is_the_settings() -> None:
    a, b = torch.zeros(2), torch.zeros(2)
    adam = Adam(lr=0.03)
    adam.step(adam.init([a]), [a], [torch.ones(2)])
    adam.step(adam.init([b]), [b], [torch.ones(2)], 0.03)
    assert torch.equal(a, b)
    assert a.tolist() == pytest.approx([-0.03, -0.03], rel=1e-5)


# E: the factor in each epoch. 2(E − e)/E, e from 1, once it is below 1; the last epoch repeats the one before.
COOL_DOWN = {
    1: [1],
    2: [1, 1],
    3: [1, 2 / 3, 2 / 3],
    4: [1, 1, 1 / 2, 1 / 2],
    5: [1, 1, 4 / 5, 2 / 5, 2 / 5],
    6: [1, 1, 1, 2 / 3, 1 / 3, 1 / 3],
}


@pytest.mark.parametrize("epochs", COOL_DOWN)
def test_cool_down_literally(epochs: int) -> None:
    assert [CoolDown().factor(e, epochs) for e in range(epochs)] == pytest.approx(COOL_DOWN[epochs])


@given(epochs=st.integers(1, 300), batches=st.integers(1, 2000), data=st.data())
def test_cool_down_formula(epochs: int, batches: int, data: st.DataObject) -> None:
    """Within an epoch the rate stands still, and it never reaches 0."""
    e = data.draw(st.integers(1, epochs))
    batch = data.draw(st.integers(0, batches - 1))
    factor = CoolDown().factor((e - 1) + batch / batches, epochs)
    if e <= epochs / 2 or epochs == 1:
        assert factor == 1
    elif e < epochs:
        assert factor == pytest.approx(2 * (epochs - e) / epochs)
    else:
        assert factor == CoolDown().factor(epochs - 2, epochs) == pytest.approx(min(1, 2 / epochs))
    assert factor > 0


def test_the_papers_hundred_epochs() -> None:
    factors = [CoolDown().factor(e, 100) for e in range(100)]
    assert factors[:50] == [1.0] * 50
    assert factors[50] == pytest.approx(0.98)
    assert factors[98] == factors[99] == pytest.approx(0.02)


@given(epochs=st.integers(1, 100), warmup=st.floats(0, 5), at=st.floats(0, 1))
def test_cosine(epochs: int, warmup: float, at: float) -> None:
    rate = Cosine(warmup=warmup)
    done = at * epochs
    factor = rate.factor(done, epochs)
    assert 0 <= factor <= 1
    if done < warmup:
        assert factor == pytest.approx(done / warmup)
    elif warmup < epochs:
        assert factor == pytest.approx((1 + math.cos(math.pi * (done - warmup) / (epochs - warmup))) / 2)
        assert rate.factor(epochs, epochs) == pytest.approx(0, abs=1e-12)
        assert rate.factor(warmup, epochs) == pytest.approx(1)


def test_constant() -> None:
    assert {Constant().factor(e, 7) for e in range(7)} == {1.0}


def test_faded_moments_are_dropped() -> None:
    """They slow a processor down and move nothing; what is not faded stays, bit for bit."""
    state = Adam().init([torch.zeros(6)])
    state.first[0].copy_(torch.tensor([1e-40, -1e-40, 1e-31, -3e-30, 1e-3, 0.0]))
    state.second[0].fill_(1e-40)
    state.drop_faded()
    assert torch.equal(state.first[0], torch.tensor([0.0, 0.0, 0.0, -3e-30, 1e-3, 0.0]))
    assert (state.second[0] > 0).all(), "second moments fade a hundred times more slowly"
