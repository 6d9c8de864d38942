"""Mean and deviation of a training set, or of one that lies in several places.

Sums are taken in float64, which is exact enough to be the same on every machine. Several sets are put together in a
fixed order from their counts, means and deviations alone (Chan, Golub, LeVeque 1983): the sum and the sum of squares
say as much, but lose the deviation of data that is far from 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Standardise = Literal["none", "global", "channel"]


@dataclass(frozen=True)
class Spread:
    """Means and deviations of `count` examples: one pair, or one per channel (feature, if not an image)."""

    count: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def usable(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation to standardise by: a constant channel gets deviation 1."""
        # A deviation below float32's resolution is rounding in the mean of a constant.
        pairs = zip(self.mean, self.std, strict=True)
        return self.mean, tuple(std if std > 1e-7 * abs(mean) else 1.0 for mean, std in pairs)


def spread(inputs: Tensor, how: Standardise) -> Spread:
    """Of raw examples [n, *shape]. "none" maps uint8 to [0, 1] and leaves floats as they are."""
    if how == "none":
        return Spread(len(inputs), (0.0,), (255.0 if inputs.dtype == torch.uint8 else 1.0,))
    columns = [inputs.flatten()] if how == "global" else list(inputs.transpose(0, 1).flatten(1))
    pairs = [_mean_and_deviation(column) for column in columns]
    return Spread(len(inputs), tuple(mean for mean, _ in pairs), tuple(std for _, std in pairs))


def statistics(inputs: Tensor, how: Standardise) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation to standardise raw examples [n, *shape] by."""
    return spread(inputs, how).usable()


def together(parts: Sequence[Spread], how: Standardise) -> Spread:
    """Of all examples of several sets, in their order; all of the same shape and type."""
    count = sum(part.count for part in parts)
    if how == "none":
        return Spread(count, parts[0].mean, parts[0].std)
    means, stds = [], []
    for column in range(len(parts[0].mean)):
        mean = sum(part.count * part.mean[column] for part in parts) / count
        squares = sum(part.count * (part.std[column] ** 2 + (part.mean[column] - mean) ** 2) for part in parts)
        means.append(mean)
        stds.append(math.sqrt(squares / count))
    return Spread(count, tuple(means), tuple(stds))


def _mean_and_deviation(column: Tensor) -> tuple[float, float]:
    """In float64."""
    if column.dtype != torch.uint8:
        column = column.double()
        return float(column.mean()), float(column.std(correction=0))
    # Counting the 256 values spares a float64 copy of the whole set, and is faster.
    counts = torch.stack([torch.bincount(part, minlength=256) for part in column.split(1 << 24)]).sum(0).double()
    values = torch.arange(256, dtype=torch.float64)
    mean = float((counts * values).sum() / counts.sum())
    return mean, float(((counts * (values - mean).square()).sum() / counts.sum()).sqrt())
