"""The cells of the PFF paper's tables: every model under every schedule, as ordinary runs in folders of their own.

    OUT/mnist-adaptive-goodness-all-layers/seed-0/      a run folder, like any other

A cell is finished when its folder has a `result.json`; so the same command again does what is missing. A folder with
other settings than those asked for is refused, never mixed into one table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from layerline.data.catalog import dataset_names
from layerline.errors import UsageError
from layerline.presets.paper import BASES, MODELS, NUMBERS, SCHEDULES, Model
from layerline.presets.presets import preset
from layerline.reporting.run_folder import RunFolder
from layerline.run import Run
from layerline.settings import Settings


class Shared(Settings):
    """What all cells have in common, over the presets `pff-mnist` and `pff-cifar10`."""

    epochs: int | None = Field(default=None, ge=1)
    """Passes over the data for every block; the paper: 100."""
    chapters: int | None = Field(default=None, ge=1)
    """Equal parts the epochs are cut into; left out: as many as epochs, as in the paper."""
    dataset: str | None = None
    """Another set in the place of MNIST and CIFAR-10, for a quick try: digits."""
    widths: tuple[int, ...] | None = None
    """Units of each block in the place of 2000,2000,2000,2000. There is a node for each, and one for a softmax head."""
    batch_size: int | None = Field(default=None, ge=1)
    """Images in a minibatch; the paper: 64."""
    send_optimizer_state: bool = True
    """Adam's moments and step counts travel with a block that is handed on; the paper sends weights and biases only."""
    precision: Literal["bf16-mixed", "32-true"] | None = None
    """Products in bfloat16 with float32 weights, moments and losses (as in the presets), or float32 throughout."""
    threads: int = Field(default=1, ge=1)
    """Compute threads of every node, the same in all cells, so that their times compare; default 1."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto: a GPU if there is one."""

    def tables(self) -> dict[str, Any]:
        """As tables of a Run, to lie over a preset's."""
        names = ("epochs", "dataset", "batch_size", "precision")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.dataset and self.dataset not in dataset_names() and Path(self.dataset).exists():
            given["dataset"] = str(Path(self.dataset).resolve())
        if self.widths:
            given["network"] = {"kind": "mlp", "widths": list(self.widths)}
        return given | {"chapters": self.chapters or self.epochs, "threads": self.threads, "device": self.device}


@dataclass(frozen=True)
class Cell:
    """A model of the paper on one of its data sets, under one of its schedules."""

    dataset: str
    model: Model
    schedule: str

    @property
    def name(self) -> str:
        """As its folder: `mnist-adaptive-goodness-all-layers`."""
        return f"{self.dataset}-{self.model.name}-{self.schedule}"

    @property
    def tables(self) -> tuple[int, ...]:
        """The numbers of the paper's tables it belongs to."""
        return tuple(sorted({table for each in self._numbers() for table in each.tables}))

    def readouts(self, table: int) -> list[str]:
        """The readouts that a table gives for it, in its order."""
        return list(dict.fromkeys(each.readout for each in self._numbers() if table in each.tables))

    def computation(self, run: Run) -> tuple[str, str] | None:
        """Of the blocks of `run`, this cell's: cells with the same one end with the same bits, under any schedule.

        None where the schedule makes a difference: adaptive negatives are older in a pipeline, and moments that do not
        travel are (docs/explanation/exactness.md). A softmax head reads the blocks and changes nothing in them.
        """
        if not run.writes_labels:
            made = "local cross-entropy"
        elif run.negatives.kind in ("fixed", "random"):
            made = run.negatives.kind
        else:
            return None
        travels = run.send_optimizer_state or self.schedule != "all-layers"
        return (self.dataset, made) if travels else None

    def _numbers(self) -> list[Any]:
        return [each for each in NUMBERS if (each.dataset, each.model) == (self.dataset, self.model.name)]

    def run(self, shared: Shared, seed: int) -> Run:
        """Its run. UsageError for shared settings that cannot work."""
        base = preset(BASES[self.dataset])
        tables = base.settings | self.model.over(base.settings) | shared.tables() | {"preset": base.name, "seed": seed}
        run = Run.from_dict(tables, f"cell {self.name}")
        if self.schedule == "sequential":
            return run
        nodes = len(getattr(run.network, "widths", ())) + self.model.head
        if self.schedule == "all-layers":  # which gives every node a chapter of its own
            nodes = min(nodes, run.chapter_count)
        more = {"schedule": {"kind": self.schedule}, "nodes": nodes}
        return Run.from_dict(tables | more | {"send_optimizer_state": shared.send_optimizer_state}, f"cell {self.name}")


CELLS = tuple(
    cell
    for dataset in BASES
    for model in MODELS
    for schedule in SCHEDULES
    if (cell := Cell(dataset, model, schedule)).tables
)


def chosen(pattern: str | None) -> list[Cell]:
    """The cells a pattern names. UsageError if there is none.

    All words of the pattern have to be found in `table-1 table-2 mnist-adaptive-goodness-all-layers`, `*` and `?` stand
    for anything; a comma separates alternatives: `table-1 all-layers, cifar-10`.
    """
    if pattern is None:
        return list(CELLS)
    found = [each for each in CELLS if any(_matches(each, part.split()) for part in pattern.split(",") if part.strip())]
    if found:
        return found
    table = re.search(r"table-\d+", pattern)
    why = f": the tables are table-1 to table-{max(t for c in CELLS for t in c.tables)}" if table else ""
    raise UsageError(
        f"no cell matches --only '{pattern}'{why}",
        hint="see them all: layerline reproduce pff-tables --list --epochs 1",
    )


def _matches(cell: Cell, words: Sequence[str]) -> bool:
    names = [*(f"table-{table}" for table in cell.tables), cell.name]
    return all(any(fnmatchcase(name, f"*{word}*") for name in names) for word in words)


@dataclass(frozen=True)
class Job:
    """A cell with a seed, and its folder."""

    cell: Cell
    seed: int
    run: Run
    folder: Path

    @property
    def name(self) -> str:
        """`mnist-adaptive-goodness-all-layers, seed 0`."""
        return f"{self.cell.name}, seed {self.seed}"

    @property
    def begun(self) -> bool:
        """Whether there is a run to go on with."""
        return (self.folder / "config.toml").is_file()

    def clear(self) -> None:
        """Make place for the run where a start that failed has left an empty folder in the way."""
        with suppress(OSError):  # only if empty
            (self.folder / "checkpoints").rmdir()

    def result(self) -> dict[str, Any] | None:
        """What it gave; None while it is not finished."""
        return RunFolder(self.folder).result()

    def refuse_another(self) -> None:
        """UsageError if the folder holds a run with other settings."""
        if not self.begun:
            return
        there = RunFolder(self.folder).run()
        if there.digest() != self.run.replace(device=there.device).digest():
            raise UsageError(
                f"{self.folder} is a run with other settings than those given",
                hint="give the same, or choose another folder: --out-dir FOLDER",
            )


def jobs_of(cells: Iterable[Cell], shared: Shared, seeds: Sequence[int], out_dir: Path) -> list[Job]:
    """All of them, seed by seed, so that every cell has a result before any has a second one."""
    cells = list(cells)
    jobs = [
        Job(cell, seed, cell.run(shared, seed), out_dir / cell.name / f"seed-{seed}")
        for seed in seeds
        for cell in cells
    ]
    for job in jobs:
        job.refuse_another()
    return jobs
