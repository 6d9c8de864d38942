"""Wrong labels: never the right one, and chosen as each policy says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from layerline.negatives.labels import Adaptive, Fixed, LabelNegatives, Random, Sampled, random_wrong

POLICIES: list[LabelNegatives] = [Fixed(), Random(), Adaptive(), Sampled()]


def drawn(seed: int) -> Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: p.kind)
@given(
    classes=st.integers(2, 12),
    count=st.integers(1, 40),
    seed=st.integers(0, 10**6),
    scored=st.booleans(),
    spread=st.sampled_from([0.0, 1.0, 1e4]),
)
@settings(max_examples=60, deadline=None)
def test_never_the_right_label(
    policy: LabelNegatives, classes: int, count: int, seed: int, scored: bool, spread: float
) -> None:
    draw = drawn(seed)
    labels = torch.randint(0, classes, (count,), generator=draw)
    scores = spread * torch.randn(count, classes, generator=draw) if scored else None
    kept = labels.clone(), None if scores is None else scores.clone()
    wrong = policy.draw(labels, classes, scores, drawn(seed))
    assert wrong.shape == labels.shape
    assert wrong.dtype == torch.int64
    assert ((wrong >= 0) & (wrong < classes)).all()
    assert (wrong != labels).all()
    assert torch.equal(wrong, policy.draw(labels, classes, scores, drawn(seed))), "a pure function of its arguments"
    assert torch.equal(labels, kept[0])
    assert scores is None or (kept[1] is not None and torch.equal(scores, kept[1]))


def chi_square(counts: Tensor, expected: Tensor) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


def test_random_labels_are_even() -> None:
    labels = torch.full((9000,), 3)
    counts = torch.bincount(random_wrong(labels, 10, drawn(0)), minlength=10).double()
    assert counts[3] == 0
    others = counts[torch.arange(10) != 3]
    assert chi_square(others, torch.full((9,), 1000.0)) < 26  # 8 degrees of freedom, p = 0.001


def test_sampled_labels_follow_the_softmax_over_the_wrong_ones() -> None:
    scores = torch.tensor([2.0, 0.0, 1.0, 5.0, -1.0])
    n = 20_000
    labels = torch.full((n,), 3)
    counts = torch.bincount(Sampled().draw(labels, 5, scores.expand(n, 5), drawn(1)), minlength=5).double()
    keep = torch.tensor([0, 1, 2, 4])
    expected = n * torch.softmax(scores[keep].double(), 0)
    assert counts[3] == 0
    assert chi_square(counts[keep], expected) < 16.3  # 3 degrees of freedom, p = 0.001


def test_adaptive_takes_the_best_wrong_label() -> None:
    scores = torch.tensor([[9.0, 1.0, 2.0], [9.0, 1.0, 2.0], [-3.0, -2.0, -1.0], [float("-inf"), 0.0, float("-inf")]])
    labels = torch.tensor([0, 1, 2, 0])
    assert Adaptive().draw(labels, 3, scores, drawn(0)).tolist() == [2, 0, 1, 1]


def test_when_labels_are_drawn() -> None:
    by_order = {p.kind: (p.when("chapters"), p.when("simultaneous")) for p in POLICIES}  # type: ignore[attr-defined]
    assert by_order == {
        "fixed": ("run", "run"),
        "random": ("chapter", "chapter"),
        "adaptive": ("chapter", "chapter"),
        "sampled": ("chapter", "minibatch"),
    }
    assert [p.needs_scores for p in POLICIES] == [False, False, True, True]
