"""Data that each node has to itself: what the others are told of it, and what all agree on from that.

    node 1 reads clinics/1.npz ─ account ─┐
    node 2 reads clinics/2.npz ─ account ─┼─ the same shape, type and kind of labels? all classes, mean and deviation
    node 3 reads clinics/3.npz ─ account ─┘

Problem: nodes that never see each other's examples must still build the same network. Solution: each gives an
`Account`, a handful of numbers and the names of its classes, and everybody makes the same agreement of all accounts, in
the order of the nodes. Nothing else of the data leaves a node before training.

A class is known by its name: label k means the k-th name of the file's own, and gets the number that this name has
among all of them. Where nobody names classes, the numbers are the names.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from pydantic import Field, ValidationError

from layerline.data.catalog import load_part
from layerline.data.dataset import Dataset, Examples
from layerline.data.statistics import Spread, Standardise, spread, together
from layerline.errors import DataError, LayerlineError
from layerline.settings import Settings

NODE = "{node}"
"""Stands for the number of a node, from 1, in the path of its data."""


class Account(Settings):
    """What a node tells the others of its training examples: all of it."""

    images: bool
    """Whether they are uint8 images, else float32 features."""
    shape: tuple[int, ...]
    """Of one example."""
    classes: tuple[str, ...]
    """The names of its classes, in the order of its labels."""
    examples: int = Field(ge=1)
    mean: tuple[float, ...]
    """Over all examples, or of each channel, as the inputs are standardised."""
    std: tuple[float, ...]

    @classmethod
    def of(cls, data: Dataset, standardise: Standardise) -> Self:
        """The account of a data set."""
        found = spread(data.train.inputs, standardise)
        return cls(
            images=data.is_image,
            shape=data.shape,
            classes=data.classes,
            examples=found.count,
            mean=found.mean,
            std=found.std,
        )

    @classmethod
    def read(cls, given: object, node: int) -> Self:
        """An account as it came from another process. LayerlineError if it is none."""
        try:
            return cls.model_validate(given)
        except ValidationError:
            raise LayerlineError(
                f"what node {node + 1} says of its data cannot be read", hint="install the same version everywhere"
            ) from None

    @property
    def numbered(self) -> bool:
        """Whether the classes have no names but numbers."""
        return all(name.isdecimal() for name in self.classes)


@dataclass(frozen=True)
class OwnData:
    """The data of all nodes as one process knows it: everybody's account, and the examples of its own nodes."""

    name: str
    """The path, with `{node}` in it."""
    standardise: Standardise
    accounts: tuple[Account, ...]
    """Of every node, in order; they fit each other."""
    classes: tuple[str, ...]
    """Of all nodes."""
    parts: Mapping[int, Dataset]
    """Of the nodes here, by their number from 0; labels count among `classes`."""
    digests: Mapping[int, str]
    """SHA-256 of their data as it was read, to find it again: they stay here."""

    @staticmethod
    def of(
        name: str, standardise: Standardise, parts: Mapping[int, Dataset], accounts: Sequence[Account] | None = None
    ) -> OwnData:
        """From the parts here and everybody's accounts (None: all parts are here).

        DataError, the same in every process, where a node has examples or labels of another kind than the others.
        """
        if accounts is None:
            accounts = [Account.of(parts[node], standardise) for node in sorted(parts)]
        classes = agree(accounts)
        renumbered = {node: renumber(part, classes) for node, part in parts.items()}
        digests = {node: _digest(part) for node, part in parts.items()}
        return OwnData(name, standardise, tuple(accounts), classes, renumbered, digests)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self.accounts[0].shape

    @property
    def is_image(self) -> bool:
        """Whether the examples are `uint8` images."""
        return self.accounts[0].images

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def examples(self) -> int:
        """Training examples of all nodes together."""
        return sum(account.examples for account in self.accounts)

    def statistics(self, standardise: Standardise) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of all nodes' examples together, to standardise by."""
        assert standardise == self.standardise
        spreads = [Spread(account.examples, account.mean, account.std) for account in self.accounts]
        return together(spreads, standardise).usable()

    def digest(self) -> str:
        """SHA-256 of what was agreed on, as hexadecimal digits: the same in all processes."""
        said = [account.model_dump(mode="json") for account in self.accounts]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def path_of(name: str, node: int) -> str:
    """Where a node's data lies; nodes count from 0 here, from 1 in the path."""
    return name.replace(NODE, str(node + 1))


def read_parts(name: str, nodes: Iterable[int], *, validation: bool) -> dict[int, Dataset]:
    """The data of some nodes, and of no others. LayerlineError that names the node whose data cannot be used.

    `validation`: the end of each training set is held out, and the test set stays unread.
    """
    parts = {}
    for node in nodes:
        path = path_of(name, node)
        try:
            part = replace(load_part(path), name=path)
            parts[node] = part.hold_out() if validation else part
        except LayerlineError as error:
            raise type(error)(f"node {node + 1}: {error.what}", hint=error.hint) from None
    return parts


def agree(accounts: Sequence[Account]) -> tuple[str, ...]:
    """The classes of all nodes, in the order in which they first occur. DataError naming a node that does not fit."""
    _same(accounts, _examples, "bring the examples of all nodes into one shape and type")
    _same(accounts, _labels, "give every node's file the names of its classes, or number the same classes everywhere")
    if any(len(account.mean) != len(accounts[0].mean) or len(account.std) != len(account.mean) for account in accounts):
        raise DataError("the nodes give statistics of other inputs than they have", hint="install the same version")
    classes = tuple(dict.fromkeys(name for account in accounts for name in account.classes))
    if len(classes) < 2:
        raise DataError("all nodes together have one class only", hint="a classifier needs at least two classes")
    return classes


def renumber(data: Dataset, classes: tuple[str, ...]) -> Dataset:
    """The same set with its labels counted among more classes. DataError for a class that is none of them."""
    if data.classes == classes:
        return data
    unknown = [name for name in data.classes if name not in classes]
    if unknown:
        raise DataError(f"{data.name}: there is no class {unknown[0]}", hint=f"the classes are: {', '.join(classes)}")
    number = torch.tensor([classes.index(name) for name in data.classes])
    train = Examples(data.train.inputs, number[data.train.labels])
    test = Examples(data.test.inputs, number[data.test.labels]) if data.test else None
    return Dataset(data.name, train, test, classes)


def _digest(data: Dataset) -> str:
    return hashlib.sha256(json.dumps([data.classes, data.digest()]).encode()).hexdigest()


def _examples(account: Account) -> str:
    shape = " x ".join(map(str, account.shape))
    return f"{'uint8 images' if account.images else 'float features'} of shape {shape}"


def _labels(account: Account) -> str:
    return "classes without names" if account.numbered else "classes with names"


def _same(accounts: Sequence[Account], said: Callable[[Account], str], hint: str) -> None:
    """DataError if they don't say the same: the fewest are wrong, in doubt those who are not like the first node."""
    words = [said(account) for account in accounts]
    counted = Counter(words)
    if len(counted) == 1:
        return
    usual = max(counted, key=lambda word: (counted[word], word == words[0]))
    odd = next(node for node, word in enumerate(words) if word != usual)
    raise DataError(f"node {odd + 1} has {words[odd]}, where most have {usual}", hint=hint)
