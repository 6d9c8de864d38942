"""What happens in a run, as plain facts: trainers tell, displays and files listen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layerline.schedules.plan import Plan
    from layerline.schedules.simulate import Simulation


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

    @property
    def what(self) -> str:
        """What learned: "block 2" or "head"."""
        return self.block if self.block == "head" else f"block {self.block}"


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
    bits: float | None = None
    """Of a language model: bits that a held-out character takes, on average."""


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
class Standing:
    """What a node of a plan is about."""

    row: int
    """The row that it carries out, or will; the number of the plan's rows: it has done its part."""
    waits: bool
    """For the row's inputs."""
    share: float
    """Part of the row that is done, in minibatches."""
    busy: float
    """Seconds it has worked since the run was started, this row included."""
    latest: Row | None
    """The numbers of the plan's last stage, where the node trained it last."""


@dataclass(frozen=True)
class PlanStarts:
    """The nodes of a plan set out."""

    plan: Plan
    predicted: Simulation
    """The same rows in time, on the processes there are (which are its nodes)."""
    look: Callable[[], Mapping[int, Standing]]
    """What each node is about, as far as it is known; may be called by any one thread."""


@dataclass(frozen=True)
class NodeStanding:
    """What a node of a stream is about."""

    done: int
    """Minibatches of the data that all its blocks have learned from; where they run freely, those that each came past,
    added up."""
    action: int | None
    """What it computes, an `Action`; None: nothing."""
    block: int | None
    """For which block, from 0, where that is known."""
    waits_for: int | None
    """The node without whose message it cannot go on."""
    share: float
    """Of the time since training began, or went on, in which it computed."""


@dataclass(frozen=True)
class StreamStarts:
    """The nodes of a stream set out."""

    blocks: Sequence[Sequence[int]]
    """Of each node, from 0."""
    steps: Sequence[int]
    """Where each node is done, counted in the same way."""
    freely: bool
    """Whether every block has steps of its own."""
    in_turns: bool
    """Whether one process carries out several nodes."""
    look: Callable[[], Mapping[int, NodeStanding]]
    """What each node is about, as far as it is known; may be called by any one thread."""


@dataclass(frozen=True)
class RowWaits:
    """A node of a plan comes to a row; it may have to wait for the inputs."""

    row: int
    node: int


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


@dataclass(frozen=True)
class Noted:
    """Something a person should know; a sentence."""

    words: str


@dataclass(frozen=True)
class RowKept:
    """The result of a row is on disk, and noted as done."""

    row: int
    node: int


Event = (
    Minibatch
    | EpochDone
    | Evaluated
    | Saved
    | Started
    | PlanStarts
    | StreamStarts
    | RowWaits
    | RowBegins
    | RowDone
    | RowKept
    | Noted
)
Listener = Callable[[Event], None]


def silent(event: Event) -> None:
    """The listener that nobody hears: of processes that others speak for, and of runs that say nothing."""
