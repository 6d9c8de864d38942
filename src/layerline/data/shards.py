"""Who holds which part of a training set: private data, simulated.

    iid          every shard a random part                                   the same classes everywhere
    by-label     sorted by class, then cut                                   each shard sees few classes
    dirichlet    class proportions drawn from Dirichlet(α) for every class   α = 1 uneven, α = 0.1 very uneven

A split is a pure function of (labels, number of shards, seed): every node can compute its own part without being told.
Every example is in exactly one shard, and no shard is empty.

Data that is private already needs no division: with `own` every node reads a set of its own (`data/own.py`).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from layerline.errors import UsageError
from layerline.settings import Settings


class BaseShards(Settings):
    """A way to divide a training set among nodes."""

    def split(self, labels_n: np.ndarray, shards: int, seed: int) -> list[np.ndarray]:
        """Which examples each shard holds, in ascending order. UsageError if there are fewer examples than shards."""
        if shards > len(labels_n):
            raise UsageError(f"{len(labels_n):,} examples cannot be divided among {shards:,} nodes")
        parts = [np.sort(part) for part in self._split(labels_n, shards, np.random.default_rng(seed))]
        for part_index in range(shards):  # an empty shard takes an example from the largest
            if not len(parts[part_index]):
                largest = max(range(shards), key=lambda i: len(parts[i]))
                parts[part_index], parts[largest] = parts[largest][-1:], parts[largest][:-1]
        return parts

    @abstractmethod
    def _split(self, labels_n: np.ndarray, shards: int, draw: np.random.Generator) -> list[np.ndarray]:
        """Any division."""


class Iid(BaseShards):
    """Every shard a random part of the whole."""

    kind: Literal["iid"] = "iid"

    def _split(self, labels_n: np.ndarray, shards: int, draw: np.random.Generator) -> list[np.ndarray]:
        return np.array_split(draw.permutation(len(labels_n)), shards)


class ByLabel(BaseShards):
    """Sorted by class and cut: each shard sees about C / shards classes."""

    kind: Literal["by-label"] = "by-label"

    def _split(self, labels_n: np.ndarray, shards: int, draw: np.random.Generator) -> list[np.ndarray]:
        shuffled = draw.permutation(len(labels_n))
        return np.array_split(shuffled[np.argsort(labels_n[shuffled], kind="stable")], shards)


class Dirichlet(BaseShards):
    """For every class, the shards' shares are drawn from a Dirichlet distribution (Hsu et al., arXiv 1909.06335)."""

    kind: Literal["dirichlet"] = "dirichlet"
    concentration: float = Field(default=1.0, gt=0)
    """α: large is even, 0.1 gives most of a class to one or two shards."""

    def _split(self, labels_n: np.ndarray, shards: int, draw: np.random.Generator) -> list[np.ndarray]:
        parts: list[list[np.ndarray]] = [[] for _ in range(shards)]
        for label in np.unique(labels_n):
            members = draw.permutation(np.flatnonzero(labels_n == label))
            shares = draw.dirichlet(np.full(shards, self.concentration))
            cuts = (np.cumsum(shares)[:-1] * len(members)).round().astype(int)
            for part, piece in zip(parts, np.split(members, cuts), strict=True):
                part.append(piece)
        return [np.concatenate(part) for part in parts]


class OwnShards(Settings):
    """Nothing is divided: every node reads a data set of its own."""

    kind: Literal["own"] = "own"


Shards = Annotated[Iid | ByLabel | Dirichlet | OwnShards, Field(discriminator="kind")]
