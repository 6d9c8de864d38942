"""What a Dataset promises: valid content, an honest split, a digest of what it holds."""

from __future__ import annotations

import pytest
import torch

from layerline.data.dataset import Dataset, Examples
from layerline.errors import DataError, UsageError


def images(n: int, classes: int = 2) -> Examples:
    return Examples(
        torch.arange(n * 4).remainder(256).to(torch.uint8).reshape(n, 1, 2, 2), torch.arange(n).remainder(classes)
    )


def small(n: int = 12) -> Dataset:
    return Dataset("small", images(n), images(4), ("c0", "c1"))


def test_properties() -> None:
    data = small()
    assert data.shape == (1, 2, 2)
    assert data.features == 4
    assert data.num_classes == 2
    assert data.is_image
    assert len(data.train) == 12
    features = Dataset("f", Examples(torch.zeros(3, 5), torch.tensor([0, 1, 0])), None, ("a", "b"))
    assert (features.shape, features.features, features.is_image) == ((5,), 5, False)


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, dtype=torch.int64), "float64"),
        (torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), r"\[n, C, H, W\]"),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int64), "features"),
        (torch.zeros(2, 3), torch.zeros(2, dtype=torch.int32), "int64"),
        (torch.zeros(2, 3), torch.zeros(2, 1, dtype=torch.int64), r"\[2, 1\]"),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64), "2 inputs but 3 labels"),
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), "no examples"),
    ],
)
def test_invalid_examples_are_refused(inputs: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Examples(inputs, labels)


def test_label_outside_the_classes_is_refused() -> None:
    with pytest.raises(DataError, match="test labels run from 0 to 1"):
        Dataset("d", images(3, 1), images(3, 2), ("only",))


def test_test_set_of_another_shape_is_refused() -> None:
    other = Examples(torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.tensor([0, 1]))
    with pytest.raises(DataError, match=r"\[1, 2, 2\].*\[1, 3, 3\]"):
        Dataset("d", images(4), other, ("a", "b"))


def test_hold_out_takes_the_last_examples_and_leaves_the_test_set_out() -> None:
    data = small(12)
    split = data.hold_out(5)
    assert split.test is not None
    assert split.name == "small"
    assert torch.equal(torch.cat([split.train.inputs, split.test.inputs]), data.train.inputs)
    assert torch.equal(split.test.labels, data.train.labels[7:])
    assert split.hold_out(1).train.labels.tolist() == data.train.labels[:6].tolist()


@pytest.mark.parametrize(("n", "held"), [(12, 2), (49_999, 8_333), (50_000, 10_000), (60_000, 10_000)])
def test_hold_out_by_default(n: int, held: int) -> None:
    examples = Examples(torch.zeros(n, 1), torch.arange(n).remainder(2))
    split = Dataset("d", examples, None, ("a", "b")).hold_out()
    assert split.test is not None
    assert len(split.test) == held


def test_hold_out_of_a_tiny_set_takes_one() -> None:
    split = small(4).hold_out()
    assert split.test is not None
    assert len(split.test) == 1


@pytest.mark.parametrize("count", [0, -1, 12, 13])
def test_impossible_hold_out(count: int) -> None:
    with pytest.raises(UsageError, match=f"cannot hold out {count} of 12"):
        small(12).hold_out(count)


def test_hold_out_of_a_sorted_set_names_the_lost_class() -> None:
    examples = Examples(torch.zeros(6, 1), torch.tensor([0, 0, 0, 0, 1, 1]))
    with pytest.raises(DataError, match=r"none of class dog(.|\n)*shuffle"):
        Dataset("d", examples, None, ("cat", "dog")).hold_out(2)


def test_digest_is_of_the_training_set() -> None:
    data = small()
    assert len(data.digest()) == 64
    assert data.digest() == small().digest()
    assert data.digest() != data.hold_out(2).digest()
    same_bytes = Examples(data.train.inputs.reshape(12, 1, 4, 1), data.train.labels)
    assert Dataset("d", same_bytes, None, data.classes).digest() != data.digest()
    other_label = data.train.labels.clone()
    other_label[0] = 1
    assert Dataset("d", Examples(data.train.inputs, other_label), None, data.classes).digest() != data.digest()
