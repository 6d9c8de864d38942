"""Interlocking backprop over two nodes: minibatches a second, measured in two processes, beside what the plan says.

    python benchmarks/reach_nodes.py shakespeare --seeds 0 1 2        27 runs, on two cores without other work
    python benchmarks/reach_nodes.py resnet --seeds 0 1 2 --parts 2   another number of microbatches (default 4)
    python benchmarks/reach_nodes.py resnet --table --markdown        what there is; only the plan is computed

The networks are those of `reach.py`, whose table has the planned rates for more nodes than there are cores. With one
microbatch and reach all a single minibatch is in flight; with less reach a node goes on as soon as the gradients that
train it are there. 1F1B is PyTorch's; it takes as many microbatches as nodes at least. The rate is that of the middle
of a run of --steps: from the end of the first steps that its trace has to the last. A seed repeats all of them; cells
are the median, in brackets the lowest and the highest. Planned is with what the plan's rows take on one thread of this
machine.

Every run is kept as a file in --results, and is not done again unless its flags have changed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import reach
from kept_cells import Results, parser_of, show, told, train
from links import steps_a_second
from reach_plans import PIPELINE, Planner

NODES = 2
WAYS = (*reach.REACHES, PIPELINE)


@dataclass(frozen=True)
class Cell:
    """A run of the table; `seed` counts repetitions."""

    what: str
    way: str
    parts: int
    seed: int
    steps: int

    @property
    def name(self) -> str:
        """Also of its file."""
        way = self.way if self.way == PIPELINE else f"reach-{self.way}"
        return f"{self.what} {way} parts-{self.parts} seed-{self.seed}"

    @property
    def flags(self) -> list[str]:
        """Of the run, after the preset."""
        own = ["--microbatches", str(self.parts), "--seed", str(self.seed), "--max-steps", str(self.steps)]
        over = ["--nodes", str(NODES), "--threads", "1", *reach.WHAT[self.what][1]]
        if self.way == PIPELINE:
            return ["--reach", "all", "--method", "1f1b", *own, *over]
        return ["--reach", self.way, *own, *over]

    @property
    def words(self) -> list[str]:
        """Of `layerline train`."""
        return [reach.WHAT[self.what][0], *self.flags]


def cells(asked: argparse.Namespace) -> list[Cell]:
    """All ways of a repetition, then those of the next."""
    return [
        Cell(asked.what, way, parts, seed, asked.steps)
        for seed in asked.seeds
        for way in WAYS
        for parts in (1, asked.parts)
        if way != PIPELINE or parts >= NODES
    ]


def measured(cell: Cell) -> dict[str, Any]:
    """Minibatches a second. CalledProcessError where the run fails."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "run"
        train(*cell.words, "--processes", str(NODES), folder=folder)
        trace = json.loads((folder / "trace.json").read_text(encoding="utf-8"))
    return {"steps_per_second": steps_a_second(trace)}


def lines(wanted: Sequence[Cell], results: Results, planner: Planner) -> list[list[str]]:
    """The table: a line for each way and number of microbatches."""
    table = [["reach", "microbatches", "measured", "planned", "of it"]]
    for way, parts in dict.fromkeys((cell.way, cell.parts) for cell in wanted):
        found = (results.find(cell) for cell in wanted if (cell.way, cell.parts) == (way, parts))
        rates = [result["steps_per_second"] for result in found if result]
        planned = 1 / planner.step_seconds(way, NODES, parts)
        said, share = "–", "–"
        if rates:
            said = f"{statistics.median(rates):.3g} ({min(rates):.3g}–{max(rates):.3g})"
            share = f"{statistics.median(rates) / planned:.2f}"
        table.append([way, str(parts), said, f"{planned:.3g}", share])
    return table


def main() -> None:
    """Run what is missing, print the table."""
    parser = parser_of(__doc__, "reach-nodes-results")
    parser.add_argument("what", choices=list(reach.WHAT))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--parts", type=int, default=4, help="Microbatches, beside one. Default 4.")
    asked = parser.parse_args()
    if asked.steps < 30:
        parser.error("--steps: at least 30, or no step is left between the first and the last recorded ones")
    results, wanted = Results(asked.results), cells(asked)
    with told(parser):
        missing = [] if asked.table else [cell for cell in wanted if results.find(cell) is None]
        for number, cell in enumerate(missing, start=1):
            found = measured(cell)
            results.keep(cell, found)
            said = f"{number}/{len(missing)} {cell.name}: {found['steps_per_second']:.3g} minibatches a second"
            print(said, file=sys.stderr, flush=True)
        planner = Planner.of(reach.Cell(asked.what, "2", 0).run, measure=True)
        show(lines(wanted, results, planner), asked.markdown)


if __name__ == "__main__":
    main()
