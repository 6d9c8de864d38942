"""Decoupled greedy learning with blocks at different speeds, and with codes at their boundaries, beside it in step.

    python benchmarks/asynchronous.py digits --seeds 0 1 2             a small network on the digits: minutes
    python benchmarks/asynchronous.py cifar-10 --seeds 0 --epochs 8    dgl-cifar10; flags of `layerline train`
    python benchmarks/asynchronous.py cifar-10 --only speeds --slow 1 3 5 --paces random --buffers 1 5
    python benchmarks/asynchronous.py cifar-10 --epochs 8 --table --markdown    what there is; nothing is trained
    python benchmarks/asynchronous.py cifar-10 --epochs 8 --plot docs/results/free-running.svg

A slow-down is given to one block at a time, as in the paper (arXiv 2106.06401), to each or to those of --slow; a row
is the mean over these blocks and the seeds. At a regular pace the size M of the buffers has no effect, so only the
smallest is run. Accuracy in %: of the digits on the test set, of CIFAR-10 on the 10,000 training images that are held
out. "Ratio" is how many times less travels than the outputs would in float32, "error" the relative error of what
arrives.

Every cell is a run through the command line in one process on one thread, kept as a file in --results. A cell that is
there is not trained again unless its flags have changed, so the benchmark can be stopped at any time, and goes
on, also within a cell.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kept_cells import Results, accuracy, complete, parser_of, show, told

WHAT: dict[str, tuple[str, list[str], int]] = {
    "digits": (str(Path(__file__).with_name("asynchronous-digits.toml")), [], 3),
    "cifar-10": ("dgl-cifar10", ["--validation"], 5),
}
"""Presets, flags over them, blocks."""
IN_STEP = "in step"
CODES: dict[str, list[str]] = {
    "bf16": ["--boundary", "bf16"],
    "int8": ["--boundary", "int8"],
    "vq, 2 channels, 16 codes": ["--boundary", "vq", "--dims", "2", "--codes", "16"],
    "vq, 4 channels, 256 codes": ["--boundary", "vq", "--dims", "4", "--codes", "256"],
    "vq, 4 channels, 128 codes": ["--boundary", "vq", "--dims", "4", "--codes", "128"],
    "vq, 4 channels, 16 codes": ["--boundary", "vq", "--dims", "4", "--codes", "16"],
    "vq, 8 channels, 256 codes": ["--boundary", "vq", "--dims", "8", "--codes", "256"],
    "the same, decay 0.6": ["--boundary", "vq", "--dims", "8", "--codes", "256", "--decay", "0.6"],
    "vq, 16 channels, 256 codes": ["--boundary", "vq", "--dims", "16", "--codes", "256"],
}


@dataclass(frozen=True)
class Cell:
    """A run of the table. `slow`: the block that is slowed down, from 1; 0: none."""

    what: str
    row: str
    seed: int
    flags_of_row: tuple[str, ...] = ()
    slow: int = 0
    more: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Also of its file."""
        block = f" block-{self.slow}" if self.slow else ""
        return f"{self.what} {self.row.replace(',', '')}{block} seed-{self.seed}"

    @property
    def flags(self) -> list[str]:
        """Of the run, after the preset."""
        own = ["--seed", str(self.seed), "--threads", "1", *self.flags_of_row]
        return [*own, *WHAT[self.what][1], *self.more]

    @property
    def words(self) -> list[str]:
        """Of `layerline train`."""
        return [WHAT[self.what][0], *self.flags]


def freely(what: str, pace: str, buffer: int, factor: float, slow: int) -> list[str]:
    """The flags of blocks that run freely, one of them slowed down."""
    slowdowns = [f"{factor:g}" if block == slow else "1" for block in range(1, WHAT[what][2] + 1)]
    return ["--timing", "async", "--pace", pace, "--buffer", str(buffer), "--slowdowns", ",".join(slowdowns)]


def cells(asked: argparse.Namespace, more: Sequence[str]) -> Iterator[Cell]:
    """All rows of a seed, then those of the next."""
    slow = asked.slow or range(1, WHAT[asked.what][2] + 1)
    for seed in asked.seeds:
        yield Cell(asked.what, IN_STEP, seed, more=tuple(more))
        if asked.only in (None, "speeds"):
            for pace in asked.paces:
                for buffer in sorted(asked.buffers)[: 1 if pace == "regular" else None]:
                    for factor in asked.factors:
                        row = f"{pace} pace, M = {buffer}, × {factor:g}"
                        for block in slow if factor != 1 else [0]:
                            flags = tuple(freely(asked.what, pace, buffer, factor, block))
                            yield Cell(asked.what, row, seed, flags, block, tuple(more))
        if asked.only in (None, "codes"):
            for row in asked.codes:
                yield Cell(asked.what, row, seed, tuple(CODES[row]), more=tuple(more))


def travelled(result: dict[str, Any]) -> tuple[float, float]:
    """How many times less than in float32, and the relative error; over all boundaries."""
    crossed = result.get("boundaries", [])
    if not crossed:
        return 1.0, 0.0
    plain = sum(each["bytes"] * each["ratio"] for each in crossed)
    return plain / max(1, sum(each["bytes"] for each in crossed)), statistics.mean(each["error"] for each in crossed)


def by_row(wanted: Sequence[Cell], results: Results) -> dict[str, list[dict[str, Any]]]:
    """The finished cells of each row."""
    found: dict[str, list[dict[str, Any]]] = {cell.row: [] for cell in wanted}
    for cell in wanted:
        if result := results.find(cell):
            found[cell.row].append(result)
    return found


def lines(wanted: Sequence[Cell], results: Results) -> list[list[str]]:
    """The table."""
    table = [["", "runs", "mean", "lowest", "highest", "ratio", "error"]]
    for row, there in by_row(wanted, results).items():
        right = [accuracy(result) for result in there]
        numbers = [f"{of(right):.2f}" for of in (statistics.mean, min, max)] if right else ["–"] * 3
        crossed = [travelled(result) for result in there]
        means = [statistics.mean(each) for each in zip(*crossed, strict=True)]
        ratio, error = (f"{means[0]:.1f}", f"{means[1]:.3f}") if crossed else ("–", "–")
        table.append([row, str(len(there)), *numbers, ratio, error])
    return table


def plot(wanted: Sequence[Cell], results: Results, path: Path) -> None:
    """Accuracy against the slow-down, a line for each pace and M, thinner ones for each slow block; in step dashed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = by_row(wanted, results)
    curves: dict[str, dict[int, dict[float, list[float]]]] = {}  # by way, slow block (0: any) and factor
    for cell in wanted:
        way, marked, factor = cell.row.partition(", × ")
        result = results.find(cell) if marked else None
        if result is None:
            continue
        for block in {0, cell.slow}:
            points = curves.setdefault(way, {}).setdefault(block, {})
            points.setdefault(float(factor), []).append(accuracy(result))
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for number, (way, by_block) in enumerate(curves.items()):
        for block, points in sorted(by_block.items()):
            at, means = list(points), [statistics.mean(right) for right in points.values()]
            thin = {"linewidth": 0.8, "linestyle": ":", "alpha": 0.8} if block else {"marker": "o", "label": way}
            axes.plot(at, means, color=f"C{number}", **thin)
            if block:
                axes.annotate(f" {block}", (at[-1], means[-1]), va="center", color=f"C{number}")
    if found[IN_STEP]:
        mean = statistics.mean(map(accuracy, found[IN_STEP]))
        axes.axhline(mean, color="black", linestyle="--", linewidth=1, label=IN_STEP)
    axes.set(xlabel="time of one block's step over that of the others (dotted: which block)", ylabel="accuracy in %")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)


def parse(words: Sequence[str] | None = None) -> tuple[argparse.ArgumentParser, argparse.Namespace, list[str]]:
    """The parser, what was asked for, and the flags that are for `layerline train`."""
    parser = parser_of(__doc__, "asynchronous-results")
    parser.add_argument("what", choices=list(WHAT))
    parser.add_argument("--factors", type=float, nargs="+", default=[1.0, 1.2, 2.0, 4.0])
    parser.add_argument("--slow", type=int, nargs="+", help="The blocks that are slowed down; left out: each.")
    parser.add_argument("--buffers", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--paces", nargs="+", choices=["regular", "random"], default=["regular", "random"])
    parser.add_argument("--only", choices=["speeds", "codes"])
    parser.add_argument("--codes", nargs="+", choices=list(CODES), default=list(CODES))
    parser.add_argument("--plot", type=Path, help="Train nothing: draw what there is.")
    return parser, *parser.parse_known_args(words)


def main() -> None:
    """Train what is missing, print the table, draw the plot."""
    parser, asked, more = parse()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    results, wanted = Results(asked.results), list(cells(asked, more))
    with told(parser):
        if not (asked.table or asked.plot):
            complete(wanted, results, lambda result: f"{accuracy(result):.2f} %")
    if asked.plot:
        plot(wanted, results, asked.plot)
    if asked.table or not asked.plot:
        show(lines(wanted, results), asked.markdown)


if __name__ == "__main__":
    main()
