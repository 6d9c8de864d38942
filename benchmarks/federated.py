"""Federated PFF beside FedAvg of backprop: data sets, shards, participants and methods, over several seeds.

    python benchmarks/federated.py --only digits               30 runs a seed, some ten seconds each on one thread
    python benchmarks/federated.py --only mnist --seeds 0      the same of MNIST: half a minute each
    python benchmarks/federated.py --only "digits dirichlet-0.1 10" --validation
    python benchmarks/federated.py --table --markdown          what there is so far, nothing is trained

Every cell is a run of its own through the command line, in one process (several end with the same bits) on one thread,
and is kept as a file in --results. A cell that is there is not trained again unless its command has changed, so the
benchmark can be stopped at any time, and goes on, also within a cell. --only takes cells with all of its words in their
name.

In all methods a participant passes over its own data equally often (in the last a little more often, so that chapters
are whole), with the same network and minibatches:

    relay            blocks go round the ring (Forward-Forward), one pass a stay, as in the paper
    long stays       the same with two stays for everybody, so with a fraction of the traffic; here the ring forgets
    lean             one pass a stay again, with less traffic than that: weights only, as int8 differences
    averaged         everybody trains every chapter of one pass, and blocks are averaged
    heads, averaged  the same with a softmax head on every block (Performance-Optimized)
    fedavg           backprop, averaged as often (equal epochs)
    fedavg, bytes    backprop, averaged as seldom as the relay's traffic allows (equal bytes), with longer chapters

Bytes are what a participant sends and receives through a server that passes blocks on, as on Flower: a block goes up
once, and comes down to everybody who needs it. So a lap of the relay is one block up and one down for everybody, and a
round of a mean over N is one up and N − 1 down: with equal blocks, the relay's bytes are worth 2 / N rounds a lap. A
server that takes the mean itself would send one down, and FedAvg at equal bytes would be FedAvg at equal epochs.

Learning rates were chosen on the validation split for 10 participants and α = 0.1, with seed 0: of the digits from
0.002, 0.006 and 0.015, of MNIST from 0.0002 to 0.015 in the same steps, three or four for each method;
of two that were level the smaller.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kept_cells import Results, accuracy, complete, show

from layerline.schedules.equal import equal_bytes, through_server

DATA: dict[str, tuple[int, int, list[str]]] = {
    "digits": (10, 2, ["--dataset", "digits", "--widths", "200,200,200", "--batch-size", "16"]),
    "mnist": (
        6,
        2,
        ["--dataset", "mnist", "--widths", "500,500,500", "--batch-size", "64", "--precision", "bf16-mixed"],
    ),
}
"""Passes of every participant over its data, how many long stays they make, and flags over `federated-digits`."""
SHARDS = {
    "iid": ["--shards", "iid"],
    "dirichlet-1": ["--shards", "dirichlet", "--concentration", "1"],
    "dirichlet-0.1": ["--shards", "dirichlet", "--concentration", "0.1"],
}
PARTICIPANTS = (4, 10)
HEADS = ["--objective", "local-cross-entropy", "--readout", "all-heads"]
BACKPROP = ["--objective", "backprop", "--readout", "last-head"]
RELAYS: dict[str, list[str]] = {
    "relay": [],
    "long stays": [],
    "lean": ["--codec", "int8", "--no-send-optimizer-state"],
}
MEANS = {"averaged": [], "heads, averaged": HEADS, "fedavg": BACKPROP, "fedavg, bytes": BACKPROP}
METHODS = (*RELAYS, *MEANS)
RATES = {
    "digits": dict(zip(METHODS, (0.006, 0.002, 0.002, 0.015, 0.015, 0.006, 0.006), strict=True)),
    "mnist": dict(zip(METHODS, (0.0006, 0.0002, 0.0006, 0.0006, 0.002, 0.0006, 0.002), strict=True)),
}
"""Learning rates."""


@dataclass(frozen=True)
class Cell:
    """A run of the table."""

    data: str
    shards: str
    participants: int
    method: str
    seed: int
    validation: bool

    @property
    def name(self) -> str:
        """Also of its file."""
        method = self.method.replace(", ", "-").replace(" ", "-")
        parts = [self.data, self.shards, str(self.participants), method, f"seed-{self.seed}"]
        return " ".join([*parts, "validation"] if self.validation else parts)

    @property
    def flags(self) -> list[str]:
        """Of `layerline train`."""
        passes, stays, flags = DATA[self.data]
        nodes = self.participants
        if self.method in RELAYS:
            rounds = nodes * (stays if self.method == "long stays" else passes)
            passes, mean, more = passes * nodes, "--no-average", RELAYS[self.method]
        else:
            rounds, mean, more = passes, "--average", MEANS[self.method]
            if self.method == "fedavg, bytes":
                equal = equal_bytes(passes, budget=2 * passes, a_round=nodes)  # in blocks, up and down
                passes, rounds = equal.passes, equal.count
        flags = [*flags, *SHARDS[self.shards], "--nodes", str(nodes), mean, *more]
        flags += ["--lr", str(RATES[self.data][self.method])]
        flags += ["--epochs", str(passes), "--chapters", str(rounds), "--seed", str(self.seed)]
        return [*flags, "--threads", "1", *["--validation"] * self.validation]

    @property
    def words(self) -> list[str]:
        """Of `layerline train`."""
        return ["federated-digits", "--beside", "none", *self.flags, "--processes", "1"]


def cells(only: Sequence[str], seeds: Sequence[int], validation: bool) -> Iterator[Cell]:
    """All whose names have every one of the words, cheap data and early seeds first."""
    for data in DATA:
        for seed in seeds:
            for shards in SHARDS:
                for participants in PARTICIPANTS:
                    for method in METHODS:
                        cell = Cell(data, shards, participants, method, seed, validation)
                        if set(only) <= set(cell.name.split()):
                            yield cell


def megabytes(cell: Cell, result: dict[str, Any]) -> tuple[float, float]:
    """Of a participant, up and down, on average."""
    up, down = through_server(result["bytes_down"], average=cell.method in MEANS)
    return up / 1e6, down / 1e6


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation."""
    if not values:
        return "–"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values) if len(values) > 1 else 0:.1f}"


def lines(wanted: Sequence[Cell], results: Results) -> list[list[str]]:
    """The table: a line for data, shards and participants; then one for the bytes, which do not depend on shards."""
    found = [(cell, result) for cell in wanted if (result := results.find(cell))]
    methods = [method for method in METHODS if any(cell.method == method for cell in wanted)]
    table = [["data", "shards", "participants", *methods]]
    for data, shards, participants in dict.fromkeys((c.data, c.shards, c.participants) for c, _ in found):
        line = [data, shards, str(participants)]
        for method in methods:
            place = data, shards, participants, method
            line.append(
                spread([accuracy(r) for c, r in found if (c.data, c.shards, c.participants, c.method) == place])
            )
        table.append(line)
    for data, participants in dict.fromkeys((c.data, c.participants) for c, _ in found):
        line = [data, "MB up / down", str(participants)]
        for method in methods:
            of = [
                megabytes(c, r) for c, r in found if (c.data, c.participants, c.method) == (data, participants, method)
            ]
            line.append(" / ".join(f"{statistics.mean(way):.0f}" for way in zip(*of, strict=True)) if of else "–")
        table.append(line)
    return table


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="Words that a cell's name must have: digits, dirichlet-0.1, 10, …")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument(
        "--validation", action="store_true", help="Judge on held-out training data, to choose settings."
    )
    parser.add_argument(
        "--results", type=Path, default=Path("federated-results"), help="Where finished cells are kept."
    )
    parser.add_argument("--table", action="store_true", help="Train nothing: print what there is.")
    parser.add_argument("--markdown", action="store_true")
    asked = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    results, wanted = Results(asked.results), list(cells(asked.only.split(), asked.seeds, asked.validation))
    if not asked.table:
        complete(wanted, results, lambda result: f"{accuracy(result):.2f} %")
    show(lines(wanted, results), asked.markdown)


if __name__ == "__main__":
    main()
