"""Augmented images are windows of the padded store: the same pixels as shifting and mirroring by hand."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from layerline.base_run import Augment
from layerline.data.dataset import Examples
from layerline.errors import UsageError
from layerline.runtime.training_set import TrainingSet

CPU = torch.device("cpu")


def examples(count: int, channels: int, height: int, width: int) -> Examples:
    draw = torch.Generator().manual_seed(count)
    images = torch.randint(1, 256, (count, channels, height, width), generator=draw).to(torch.uint8)
    return Examples(images, torch.arange(count))


Fill = Literal["black", "reflect"]


def variants(image: Tensor, shift: int, flip: bool, fill: Fill = "black") -> list[Tensor]:
    """Every shifted (and mirrored) version, by NumPy's padding."""
    found = []
    _, height, width = image.shape
    for source in (image, image.flip(-1)) if flip else (image,):
        around = [(0, 0), (shift, shift), (shift, shift)]
        padded = torch.from_numpy(np.pad(source.numpy(), around, "constant" if fill == "black" else "reflect"))
        for down in range(2 * shift + 1):
            for right in range(2 * shift + 1):
                found.append(padded[:, down : down + height, right : right + width])
    return found


@given(
    count=st.integers(1, 9),
    channels=st.integers(1, 3),
    height=st.integers(3, 5),
    width=st.integers(3, 5),
    shift=st.integers(0, 2),
    flip=st.booleans(),
    fill=st.sampled_from(["black", "reflect"]),
    epoch=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_every_image_is_a_variant_of_itself(
    count: int, channels: int, height: int, width: int, shift: int, flip: bool, fill: Fill, epoch: int
) -> None:
    source = examples(count, channels, height, width)
    data = TrainingSet(source, Augment(shift=shift, flip=flip, fill=fill), 0, CPU)
    everything = torch.arange(count)
    assert torch.equal(data.images(everything, None), source.inputs)
    windows = data.augmentation(epoch)
    if not shift and not flip:
        assert windows is None
        return
    seen = data.images(everything.flip(0), windows).flip(0)
    for image, original in zip(seen, source.inputs, strict=True):
        assert any(torch.equal(image, variant) for variant in variants(original, shift, flip, fill))


def test_all_variants_come_and_half_are_mirrored() -> None:
    source = Examples(examples(1, 1, 3, 3).inputs.repeat(3000, 1, 1, 1), torch.zeros(3000, dtype=torch.int64))
    data = TrainingSet(source, Augment(shift=1, flip=True), 0, CPU)
    seen = data.images(torch.arange(3000), data.augmentation(0))
    counts = [int((seen == variant).flatten(1).all(1).sum()) for variant in variants(source.inputs[0], 1, True)]
    assert sum(counts) == 3000
    assert min(counts) > 100, "each of 18 about 167 times"
    assert sum(counts[:9]) == pytest.approx(1500, abs=120)


def test_draws_are_functions_of_seed_and_epoch() -> None:
    def draws(seed: int, epoch: int) -> list[int]:
        data = TrainingSet(examples(50, 1, 4, 4), Augment(shift=1), seed, CPU)
        windows = data.augmentation(epoch)
        assert windows is not None
        assert sorted(data.order(epoch).tolist()) == list(range(50))
        return data.order(epoch).tolist() + windows.tolist()

    assert draws(0, 3) == draws(0, 3)
    assert draws(0, 3) != draws(0, 4)
    assert draws(0, 3) != draws(1, 3)


def test_vectors_cannot_be_shifted() -> None:
    vectors = Examples(torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(UsageError, match="only images can be shifted or flipped"):
        TrainingSet(vectors, Augment(flip=True), 0, CPU)
    assert torch.equal(TrainingSet(vectors, Augment(), 0, CPU).images(torch.tensor([1]), None), vectors.inputs[1:2])
