"""Interlocking backprop: quality against reach, and against time.

    python benchmarks/reach.py shakespeare --seeds 0 1 2        reaches 1, 2, 3 and all of interlocking-shakespeare
    python benchmarks/reach.py resnet --seeds 0 1 2             the same of interlocking-cifar10
    python benchmarks/reach.py resnet --epochs 5                any flag of `layerline train`; it belongs to the cell
    python benchmarks/reach.py shakespeare --table --markdown   what there is so far, nothing is trained
    python benchmarks/reach.py shakespeare --plot docs/results/reach-shakespeare.svg

Every cell is a run of its own through the command line, in one process on one thread, and is kept as a file in
--results. A cell that is there is not trained again unless its flags have changed, so the benchmark can be stopped at
any time, and goes on, also within a cell; all reaches of a seed come before the next seed. --seeds and --only-reach
divide the work among several. All reaches have the same blocks (one layer each) and the same kind of head; a head that
trains no block is not there, so reach all has none but the network's own.

The columns:

    quality       shakespeare: bits per character of the text's last tenth (less is better); resnet: accuracy in % on
                  the 10,000 training images that are held out (more is better; the test set stays unread)
    mean          over the seeds, ± sample standard deviation
    training s    measured: seconds of one process on one thread, mean over the seeds, without evaluation
    N × 1         planned: minibatches a second over N nodes, one microbatch: one minibatch in flight, as in the paper
    N × M         the same with M microbatches that follow each other (--parts); N is one node per block, or 2
    1F1B          planned: PyTorch's schedule on the same network and nodes. It takes no fewer microbatches than nodes;
                  where there are more than M, their number is in brackets. Its quality is that of reach all, except
                  that batch norm sees microbatches

Planned is what `layerline plan` says: rows by the cost formula for its assumed machine, or, with --measure, measured on
one thread of this one; links are those of processes on one host. The plot has the measured seconds at its left, and at
its right steps times planned seconds of a step over one node per block, one minibatch in flight. Lines are means over
the seeds, bands go from the lowest to the highest.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kept_cells import Results, complete, parser_of, show, told
from reach_plans import PIPELINE, Planner, rates

from layerline.cli.flags import add_settings, settings_of
from layerline.cli.resolve import resolve
from layerline.stream_run import StreamRun

WHAT: dict[str, tuple[str, list[str]]] = {
    "shakespeare": ("interlocking-shakespeare", []),  # a text's last tenth is held out anyway
    "resnet": ("interlocking-cifar10", ["--validation"]),
}
"""Presets, and flags over them."""
REACHES = ("1", "2", "3", "all")


@dataclass(frozen=True)
class Cell:
    """A run of the table."""

    what: str
    reach: str
    seed: int
    more: tuple[str, ...] = ()
    """Further flags."""

    @property
    def name(self) -> str:
        """Also of its file."""
        return f"{self.what} reach-{self.reach} seed-{self.seed}"

    @property
    def flags(self) -> list[str]:
        """Of the run, after the preset."""
        own = ["--reach", self.reach, "--seed", str(self.seed), "--eval-every", "1", "--threads", "1"]
        return [*own, *WHAT[self.what][1], *self.more]

    @property
    def run(self) -> StreamRun:
        """What the flags say. UsageError for what they cannot."""
        parser = argparse.ArgumentParser(allow_abbrev=False)
        preset = WHAT[self.what][0]
        add_settings(parser, StreamRun)
        run = resolve(preset, flags=settings_of(parser.parse_args(self.flags)))
        assert isinstance(run, StreamRun)
        return run

    @property
    def words(self) -> list[str]:
        """Of `layerline train`."""
        return [WHAT[self.what][0], *self.flags]


def cells(what: str, reaches: Sequence[str], seeds: Sequence[int], more: Sequence[str]) -> Iterator[Cell]:
    """All reaches of a seed, then those of the next."""
    return (Cell(what, reach, seed, tuple(more)) for seed in seeds for reach in reaches)


def quality(values: Mapping[str, Any]) -> float:
    """Of a result, or of a point of its curve: bits per character, else accuracy in %, on what was held out."""
    for name in ("validation_bits_per_character", "bits_per_character"):
        if isinstance(values.get(name), float):
            return float(values[name])
    names = ("test_accuracy", "validation_accuracy", "test", "validation")
    return 100 * float(next(values[name] for name in names if values.get(name) is not None))


def spread(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation."""
    if not values:
        return "–"
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{deviation}"


def lines(wanted: Sequence[Cell], results: Results, planner: Planner, parts: int) -> list[list[str]]:
    """The table: a line for each reach, and one for the pipeline, which is not trained here."""
    seeds, reaches = (list(dict.fromkeys(getattr(cell, name) for cell in wanted)) for name in ("seed", "reach"))
    planned = [f"{nodes} × {of}" for nodes in (planner.blocks, 2) for of in (1, parts)]
    table = [["reach", *(f"seed {seed}" for seed in seeds), "mean", "training s", *planned]]
    for reach in reaches:
        found = {cell.seed: results.find(cell) for cell in wanted if cell.reach == reach}
        there = [result for result in found.values() if result]
        each = [f"{quality(result):.3f}" if (result := found.get(seed)) else "–" for seed in seeds]
        took = f"{statistics.mean(result['train_seconds'] for result in there):.0f}" if there else "–"
        table.append([reach, *each, spread([*map(quality, there)]), took, *rates(planner, reach, parts)])
    table.append([PIPELINE, *["–"] * (len(seeds) + 2), *rates(planner, PIPELINE, parts)])
    return table


def curve(results: Sequence[Mapping[str, Any]]) -> list[tuple[int, float, list[float]]]:
    """Epoch, mean seconds and quality of each run, for the epochs that all of them have."""
    points = [{point["epoch"]: point for point in result["curve"]} for result in results]
    shared = sorted(set.intersection(*map(set, points))) if points else []
    return [
        (epoch, statistics.mean(of[epoch]["seconds"] for of in points), [quality(of[epoch]) for of in points])
        for epoch in shared
    ]


def plot(wanted: Sequence[Cell], results: Results, planner: Planner, path: Path) -> None:
    """Quality against measured and planned seconds, a line for each reach that has a finished cell."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for reach in dict.fromkeys(cell.reach for cell in wanted):
        points = curve([result for cell in wanted if cell.reach == reach and (result := results.find(cell))])
        if not points:
            continue
        step = planner.step_seconds(reach, planner.blocks, 1)
        epochs, measured, found = zip(*points, strict=True)
        mean, low, high = ([of(each) for each in found] for of in (statistics.mean, min, max))
        for axes, at in ((left, measured), (right, [epoch * planner.steps * step for epoch in epochs])):
            (line,) = axes.plot(at, mean, marker="o", markersize=3, label=f"reach {reach}")
            axes.fill_between(at, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    kind = "measured here" if planner.measure else "assumed"
    left.set(xlabel="measured training time in s (1 process, 1 thread)")
    left.set(ylabel="validation bits per character" if planner.run.reads_text else "validation accuracy in %")
    right.set(xlabel=f"planned time in s ({planner.blocks} nodes, costs {kind})")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    left.legend()
    figure.savefig(path)


def parse(words: Sequence[str] | None = None) -> tuple[argparse.ArgumentParser, argparse.Namespace, list[str]]:
    """The parser, what was asked for, and the flags that are for `layerline train`."""
    parser = parser_of(__doc__, "reach-results")
    parser.add_argument("what", choices=list(WHAT))
    parser.add_argument("--only-reach", nargs="+", choices=REACHES, default=list(REACHES))
    parser.add_argument("--plot", type=Path, help="Train nothing: draw what there is.")
    parser.add_argument("--parts", type=int, default=4, help="Microbatches that are planned. Default 4.")
    parser.add_argument("--measure", action="store_true", help="Measure what the plan's rows cost on this machine.")
    return parser, *parser.parse_known_args(words)


def main() -> None:
    """Train what is missing, print the table, draw the plot."""
    parser, asked, more = parse()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    results, wanted = Results(asked.results), list(cells(asked.what, asked.only_reach, asked.seeds, more))
    with told(parser):
        planner = Planner.of(wanted[0].run, asked.measure)  # runs differ in reach and seed only
        if not (asked.table or asked.plot):
            complete(wanted, results, lambda result: f"{quality(result):.3f}")
        if asked.plot:
            plot(wanted, results, planner, asked.plot)
        if asked.table or not asked.plot:
            show(lines(wanted, results, planner, asked.parts), asked.markdown)


if __name__ == "__main__":
    main()
