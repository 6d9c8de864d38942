"""What the first block sees: standardised, labelled and normalised as the formulas say."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerline.blocks.encoder import Encoder
from layerline.blocks.normaliser import BaseNormaliser, L2Norm, NoNorm, RmsNorm
from layerline.data.labels import LabelInput
from layerline.data.statistics import statistics
from layerline.errors import UsageError

Position = Literal["first", "last", "append"]
SHAPE, CLASSES = (2, 3, 4), 5
DRAW = torch.Generator().manual_seed(0)
RAW = torch.randint(0, 256, (6, *SHAPE), generator=DRAW).to(torch.uint8)
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


def encoder(**changes: Any) -> Encoder:
    given_: dict[str, Any] = {
        "images": True,
        "shape": SHAPE,
        "classes": CLASSES,
        "mean": (0.0,),
        "std": (255.0,),
        "normaliser": NoNorm(),
        "labels": LabelInput(),
        "flat": True,
        "dtype": torch.float32,
    }
    return Encoder(**(given_ | changes))


def test_statistics_by_hand() -> None:
    values = RAW.numpy().astype(np.float64)
    assert statistics(RAW, "none") == ((0.0,), (255.0,))
    assert statistics(RAW.float(), "none") == ((0.0,), (1.0,))
    mean, std = statistics(RAW, "global")
    assert mean == pytest.approx((values.mean(),))
    assert std == pytest.approx((values.std(),))
    mean, std = statistics(RAW, "channel")
    assert mean == pytest.approx(tuple(values.mean((0, 2, 3))))
    assert std == pytest.approx(tuple(values.std((0, 2, 3))))
    vectors = torch.randn(7, 3, generator=DRAW)
    mean, std = statistics(vectors, "channel")
    assert mean == pytest.approx(tuple(vectors.double().mean(0).tolist()))
    assert std == pytest.approx(tuple(vectors.double().std(0, correction=0).tolist()))


@pytest.mark.parametrize("how", ["global", "channel"])
def test_standardised_training_set_has_mean_0_and_deviation_1(how: Literal["global", "channel"]) -> None:
    mean, std = statistics(RAW, how)
    flat = encoder(mean=mean, std=std).standardise(RAW)
    assert flat.shape == (6, 24)
    parts = [flat] if how == "global" else list(flat.view(6, 2, 12).transpose(0, 1))
    for part in parts:
        assert part.mean().item() == pytest.approx(0, abs=1e-6)
        assert part.std(correction=0).item() == pytest.approx(1, abs=1e-6)


@given(value=st.floats(-1e6, 1e6, width=32), count=st.integers(1, 50))
@settings(max_examples=30, deadline=None)
def test_a_constant_feature_keeps_deviation_1(value: float, count: int) -> None:
    """The mean of a constant is rounded: dividing by that rounding error blew other values up to 1e17."""
    inputs = torch.full((count, 2), value)
    inputs[:, 1] = torch.arange(count).float()
    mean, std = statistics(inputs, "channel")
    assert std[0] == 1.0
    assert mean[0] == pytest.approx(value)
    assert std[1] == pytest.approx(float(np.arange(count).std()) or 1.0)


def test_pixels_without_standardising() -> None:
    assert torch.equal(encoder(labels=None).plain(RAW), RAW.float().flatten(1) / 255)
    images = encoder(labels=None, flat=False).plain(RAW)
    assert torch.equal(images, RAW.float() / 255)


def written_out(position: Position, strength: float, label: int | None) -> np.ndarray[Any, np.dtype[np.float64]]:
    """One view of every example by hand, before the normaliser."""
    rows = RAW.numpy().reshape(6, -1).astype(np.float64) / 255
    part = np.full((6, CLASSES), strength / CLASSES)
    if label is not None:
        part = np.zeros((6, CLASSES))
        part[:, label] = strength
    if position == "append":
        return np.hstack((rows, part))
    rows[:, slice(0, CLASSES) if position == "first" else slice(-CLASSES, None)] = part
    return rows


def scaled(rows: Any, normaliser: BaseNormaliser) -> Any:
    """The three normalisers by hand."""
    if isinstance(normaliser, RmsNorm):
        return rows / np.sqrt((rows**2).mean(1, keepdims=True) + normaliser.eps)
    if isinstance(normaliser, L2Norm):
        return rows / (np.sqrt((rows**2).sum(1, keepdims=True)) + normaliser.eps)
    return rows


@pytest.mark.parametrize("normaliser", [RmsNorm(), RmsNorm(eps=0.5), L2Norm(), L2Norm(eps=2.0), NoNorm()], ids=str)
@pytest.mark.parametrize("position", ["first", "last", "append"])
def test_views_by_hand(position: Position, normaliser: BaseNormaliser) -> None:
    """The length a row is divided by includes its label's, whatever the label: one-hot or neutral."""
    prepared = encoder(labels=LabelInput(strength=3.0, position=position), normaliser=normaliser)
    every = prepared.every_label(RAW).full().view(CLASSES, 6, -1)
    for label in range(CLASSES):
        expected = scaled(written_out(position, 3.0, label), normaliser)
        np.testing.assert_allclose(every[label].numpy(), expected, rtol=2e-6, atol=1e-7)
    neutral: Any = prepared.neutral(RAW)
    np.testing.assert_allclose(
        neutral.full().numpy(), scaled(written_out(position, 3.0, None), normaliser), rtol=2e-6, atol=1e-7
    )
    views = prepared.labelled(RAW, [LABELS, (LABELS + 2) % CLASSES])
    assert views.views == 2
    rows = views.full()
    assert rows.shape == (12, *prepared.input_shape)
    for at in range(6):
        assert torch.equal(rows[at], every[LABELS[at], at])
        assert torch.equal(rows[6 + at], every[(LABELS[at] + 2) % CLASSES, at])


@pytest.mark.parametrize("normaliser", [RmsNorm(eps=0), L2Norm(eps=0)], ids=["rms", "l2"])
def test_rows_have_unit_size(normaliser: BaseNormaliser) -> None:
    for rows in (encoder(normaliser=normaliser).every_label(RAW).full(), encoder(normaliser=normaliser).plain(RAW)):
        size = rows.square().mean(1) if isinstance(normaliser, RmsNorm) else rows.square().sum(1)
        torch.testing.assert_close(size, torch.ones_like(size))


def test_views_leave_the_image_alone() -> None:
    before = RAW.clone()
    encoder().every_label(RAW)
    vectors = RAW.float().flatten(1)
    kept = vectors.clone()
    encoder(shape=(24,)).every_label(vectors)
    encoder(shape=(24,)).plain(vectors)
    assert torch.equal(RAW, before)
    assert torch.equal(vectors, kept)


def test_images_stay_images() -> None:
    prepared = encoder(flat=False, labels=LabelInput(strength=2.0))
    rows = prepared.labelled(RAW, [LABELS]).full()
    assert rows.shape == (6, *SHAPE)
    expected = RAW.float().flatten(1) / 255
    expected[:, :CLASSES] = 2.0 * torch.eye(CLASSES)[LABELS]
    assert torch.equal(rows.flatten(1), expected)


def test_impossible_labels() -> None:
    with pytest.raises(UsageError, match="too few to write 5 classes over"):
        encoder(shape=(1, 1, 5))
    assert encoder(shape=(1, 1, 5), labels=LabelInput(position="append")).input_shape == (10,)
    with pytest.raises(UsageError, match="not to an image that stays an image"):
        encoder(flat=False, labels=LabelInput(position="append"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype(dtype: torch.dtype) -> None:
    prepared = encoder(dtype=dtype)
    assert prepared.plain(RAW).dtype == dtype
    assert prepared.every_label(RAW).full().dtype == dtype
