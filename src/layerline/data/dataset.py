"""A labelled data set in memory, and what may be said of it.

Problem: every reader (IDX, CIFAR, arrays, folders …) meets other files, and everything above the readers wants one
thing: tensors it can index, with the promise that shapes, types and labels are right.

Solution: two frozen records. `Examples` is one set of inputs with labels; `Dataset` is a training set, perhaps a test
set, and the names of the classes. Both check themselves when they are made, so a `Dataset` that exists is a valid one.

Images stay `uint8` (a quarter of the memory of float32; the network's first step turns them into floats), always with a
channel axis. All other features are `float32`.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from layerline.data.statistics import Standardise, statistics
from layerline.errors import DataError, UsageError

_BIG_SET = 50_000
"""Training examples from which `hold_out()` takes 10,000: MNIST and CIFAR have 60,000 and 50,000."""


@dataclass(frozen=True, eq=False)
class Examples:
    """A labelled set in memory.

    Raises `DataError` where types, axes or counts are wrong.
    """

    inputs: Tensor
    """`uint8` images, [n, C, H, W], 0..255; or `float32` features, [n, F] (or any [n, *shape])."""
    labels: Tensor
    """Class numbers, `int64`, [n]."""

    def __post_init__(self) -> None:
        inputs, labels = self.inputs, self.labels
        if inputs.dtype not in (torch.uint8, torch.float32):
            raise DataError(f"inputs must be uint8 images or float32 features, not {inputs.dtype}")
        if inputs.dtype == torch.uint8 and inputs.ndim != 4:
            raise DataError(f"uint8 images must have the shape [n, C, H, W], not {list(inputs.shape)}")
        if inputs.ndim < 2:
            raise DataError(f"inputs must have the shape [n, features], not {list(inputs.shape)}")
        if labels.dtype != torch.int64 or labels.ndim != 1:
            raise DataError(f"labels must be int64 of shape [n], not {labels.dtype} of shape {list(labels.shape)}")
        if len(inputs) != len(labels):
            raise DataError(f"{len(inputs):,} inputs but {len(labels):,} labels")
        if inputs.numel() == 0:
            raise DataError(f"there are no examples: the inputs' shape is {list(inputs.shape)}")

    def __len__(self) -> int:
        """How many examples there are."""
        return len(self.labels)

    def without_inputs(self) -> Examples:
        """Labels, shapes and types; the inputs have no numbers (device "meta")."""
        return Examples(self.inputs.to("meta"), self.labels)

    def __getitem__(self, part: slice) -> Examples:
        """A part of the set; it shares the memory."""
        return Examples(self.inputs[part], self.labels[part])


def held_out(count: int) -> int:
    """How many of `count` training examples a validation split takes: 10,000 of a big set, else a sixth."""
    return 10_000 if count >= _BIG_SET else max(1, count // 6)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training set, perhaps a test set, and the names of the classes.

    Raises `DataError` where the two sets differ in shape or type, or a label is outside the classes.
    """

    name: str
    train: Examples
    test: Examples | None
    classes: tuple[str, ...]
    """The name of every class; label k means `classes[k]`."""
    published: bool = False
    """Whether its name is that of a published set because it is that set: it can be read again by it."""

    def __post_init__(self) -> None:
        if self.test is not None:
            ours, theirs = self.train.inputs, self.test.inputs
            if ours.shape[1:] != theirs.shape[1:] or ours.dtype != theirs.dtype:
                raise DataError(
                    f"{self.name}: training examples are {ours.dtype} {list(ours.shape[1:])}, "
                    f"test examples {theirs.dtype} {list(theirs.shape[1:])}",
                    hint="give both sets the same shape and type",
                )
        for part, examples in (("training", self.train), ("test", self.test)):
            if examples is None:
                continue
            low, high = (int(v) for v in torch.aminmax(examples.labels))
            if low < 0 or high >= len(self.classes):
                raise DataError(
                    f"{self.name}: {part} labels run from {low} to {high}, but {len(self.classes)} classes "
                    f"have the labels 0..{len(self.classes) - 1}",
                    hint="number the classes from 0, and name every class",
                )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example: (C, H, W) or (F,)."""
        return tuple(self.train.inputs.shape[1:])

    @property
    def features(self) -> int:
        """Numbers in one example: the product of `shape`."""
        return math.prod(self.shape)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def examples(self) -> int:
        """Training examples."""
        return len(self.train)

    @property
    def is_image(self) -> bool:
        """Whether the examples are `uint8` images, [C, H, W] with values 0..255."""
        return self.train.inputs.dtype == torch.uint8

    def statistics(self, standardise: Standardise) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of the training examples, to standardise by: one pair, or one per channel."""
        return statistics(self.train.inputs, standardise)

    def hold_out(self, count: int | None = None) -> Dataset:
        """The same set with the last `count` training examples as its test set: a validation split.

        The real test set is left out, so that settings chosen on the split never saw it. Without a count: 10,000 for
        sets of at least 50,000 training examples, else a sixth (at least one).

        Raises `UsageError` for a count that leaves nothing on either side, and `DataError` where the set is sorted in
        such a way that a whole class would leave the training set.
        """
        n = len(self.train)
        if count is None:
            count = held_out(n)
        if not 0 < count < n:
            raise UsageError(
                f"cannot hold out {count:,} of {n:,} training examples of {self.name}",
                hint=f"hold out between 1 and {n - 1:,}" if n > 1 else "a set of one example cannot be split",
            )
        kept, held = self.train[: n - count], self.train[n - count :]
        gone = set(held.labels.unique().tolist()) - set(kept.labels.unique().tolist())
        if gone:
            names = ", ".join(self.classes[k] for k in sorted(gone))
            raise DataError(
                f"holding out the last {count:,} examples of {self.name} leaves none of class {names} for training",
                hint="shuffle the training set, or hold out fewer examples",
            )
        return replace(self, train=kept, test=held)

    def without_inputs(self) -> Dataset:
        """The training set without the numbers of its inputs, for who needs its order and labels only; no test set.

        Its digest is that of the whole set.
        """
        found = replace(self, train=self.train.without_inputs(), test=None)
        vars(found)["_digest"] = self._digest
        return found

    def digest(self) -> str:
        """SHA-256 over shapes, types and raw little-endian bytes of the training set, as hexadecimal digits.

        Two sets with the same digest train the same network; resuming refuses another one. Computed once.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        sha = hashlib.sha256()
        for tensor in (self.train.inputs, self.train.labels):
            array = np.ascontiguousarray(tensor.detach().cpu().numpy())
            array = array.astype(array.dtype.newbyteorder("<"), copy=False)
            sha.update(f"{array.dtype.name} {list(array.shape)}\n".encode())
            sha.update(array.data)
        return sha.hexdigest()
