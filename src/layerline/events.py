"""What happens in a run, as plain facts: trainers tell, displays and files listen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """An epoch's numbers of one block (numbered from 1) or of the readout's head ("head")."""

    epoch: int
    block: str
    loss: float
    accuracy: float
    """Forward-Forward: pairs with more goodness in the positive view; with a head: training images it got right."""
    goodness_positive: float | None = None
    goodness_negative: float | None = None


@dataclass(frozen=True)
class Minibatch:
    """One minibatch was trained."""

    epoch: int
    """Counted from 1."""
    what: str
    """What learned: "all blocks", "block 2" or "head"."""


@dataclass(frozen=True)
class EpochDone:
    """An epoch of one or all blocks is complete."""

    epoch: int
    rows: list[Row]


@dataclass(frozen=True)
class Evaluated:
    """The accuracy on held-out data was measured during training."""

    epoch: int
    split: str
    accuracy: float
    train_seconds: float


@dataclass(frozen=True)
class Saved:
    """A checkpoint was written."""

    path: str


@dataclass(frozen=True)
class Started:
    """Training begins, or goes on, at `done` of `total` minibatches."""

    preset: str
    run_dir: str
    done: int
    """Minibatches trained before, in an earlier part of the run."""
    total: int
    """Minibatches of the whole run."""
    epochs: int
    rows: list[Row]
    """The numbers of the epochs trained before."""


@dataclass(frozen=True)
class RowBegins:
    """A node of a plan begins a row; its inputs are there."""

    row: int
    node: int


@dataclass(frozen=True)
class RowDone:
    """A node of a plan has done a row; seconds since 1970."""

    row: int
    node: int
    begin: float
    end: float


Event = Minibatch | EpochDone | Evaluated | Saved | Started | RowBegins | RowDone
Listener = Callable[[Event], None]
