"""What several nodes bring: All-Layers on one node and on more, one thread and one process each, beside the plan.

    python benchmarks/pipeline.py [--nodes 2] [--images 10000] [--width 2000] [--blocks 4] [--chapters 20] [--rounds 1]
                                  [--batch-size 64] [--apart 2]

The preset `pff-mnist` (batch 64, random negatives, bfloat16 products) on the first images of MNIST, an epoch a chapter.
Columns: the time of the training (the least of the rounds), the speed-up over one node, what the plan gives for links
that take no time at the slot costs measured in the run (with equal slots S·L / (S·L / N + N − 1): 1.95 for 2 nodes, 4
blocks, 20 chapters), the quotient of the two, the prediction made with costs measured before the run, and how far the
training was from it. Every process needs a core of its own, free of other work; else the numbers say nothing.

Apart: how much longer a chapter takes when as many trainings on one node as there are nodes go on at the same time and
send each other nothing (of --apart chapters, between the other runs). So much is lost to the memory and the caches that
the cores share, whatever the schedule.

About 4 minutes on two cores as it stands; `--images 2000 --width 500` takes seconds and is a test of this file only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from layerline.data.catalog import load_dataset
from layerline.run import Run
from layerline.runtime.forecast import read_costs
from layerline.runtime.planning import planned, sizes_of
from layerline.schedules.costs import Machine, World, estimate
from layerline.schedules.simulate import simulate


def subset(path: Path, images: int) -> None:
    """The first images of MNIST, and a tenth as many of its test set."""
    data = load_dataset("mnist")
    assert data.test is not None
    train, test = data.train, data.test
    np.savez(
        path,
        x_train=train.inputs[:images].numpy(),
        y_train=train.labels[:images].numpy(),
        x_test=test.inputs[: images // 10].numpy(),
        y_test=test.labels[: images // 10].numpy(),
    )


def train(
    data: Path, folders: list[Path], nodes: int, chapters: int, given: argparse.Namespace
) -> list[dict[str, Any]]:
    """`result.json` of runs on so many nodes each, at the same time."""
    words = ["train", "pff-mnist", "--dataset", data, "--schedule", "all-layers", "--nodes", nodes, "--threads", 1]
    words += ["--widths", ",".join([str(given.width)] * given.blocks), "--epochs", chapters, "--chapters", chapters]
    words += ["--batch-size", given.batch_size, "--quiet"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "layerline", *map(str, words)]
    runs = [subprocess.Popen([*command, "--out-dir", str(folder)], env=environment) for folder in folders]
    statuses = [run.wait() for run in runs]
    if any(statuses):
        sys.exit("a training failed")
    return [json.loads((folder / "result.json").read_text(encoding="utf-8")) for folder in folders]


def apart(data: Path, path: Path, nodes: int, given: argparse.Namespace) -> float:
    """Seconds of a chapter on one node while so many trainings go on that have nothing to do with each other."""
    runs = train(data, [path / f"apart-{nodes}-{n}" for n in range(nodes)], 1, given.apart, given)
    return sum(values["train_seconds"] for values in runs) / nodes / given.apart


def ideal(folder: Path, images: int) -> float:
    """The plan's speed-up over one node, for links that take no time."""
    run = Run.from_toml(folder / "config.toml")
    sizes = sizes_of(run, (1, 28, 28), 10, images)
    assert sizes is not None
    costs, noted = estimate(sizes, Machine()), folder / "slots" / "costs.json"
    if noted.exists():
        costs, _ = read_costs(noted)
    one, many = (simulate(planned(r, len(sizes.units), sizes), costs, World()) for r in (run.replace(nodes=1), run))
    return one.makespan / many.makespan


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {"images": 10_000, "width": 2000, "blocks": 4, "chapters": 20, "rounds": 1, "batch-size": 64, "apart": 2}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--nodes", type=int, nargs="+", default=[2])
    arguments = parser.parse_args()
    table = Table(title=f"All-Layers, 784-{arguments.width}×{arguments.blocks}, {arguments.chapters} chapters, "
                        f"{arguments.images:,} images, batch {arguments.batch_size}, a thread a node")  # fmt: skip
    for column in (
        "nodes",
        "seconds",
        "speed-up",
        "ideal links",
        "of it",
        "busy",
        "predicted",
        "measured",
        "costs from",
        "apart",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    alone = 0.0
    with tempfile.TemporaryDirectory() as path:
        data = Path(path) / "subset.npz"
        subset(data, arguments.images)
        for nodes in (1, *arguments.nodes):
            beside = apart(data, Path(path), nodes, arguments) if nodes > 1 else 0.0
            folders = [Path(path) / f"{nodes}-{number}" for number in range(arguments.rounds)]
            runs = [(train(data, [folder], nodes, arguments.chapters, arguments)[0], folder) for folder in folders]
            values, folder = min(runs, key=lambda each: each[0]["train_seconds"])
            seconds, predicted = values["train_seconds"], values["predicted_seconds"]
            alone = alone or seconds
            plan = ideal(folder, arguments.images)
            numbers = [f"{seconds:.1f}", f"{alone / seconds:.2f}×", f"{plan:.2f}×", f"{alone / seconds / plan:.1%}"]
            numbers += [f"{values['utilisation']:.0%}", f"{predicted:.1f}", f"{seconds / predicted - 1:+.1%}"]
            slower = f"{beside * arguments.chapters / alone - 1:+.1%}" if nodes > 1 else ""
            table.add_row(str(nodes), *numbers, values["predicted_from"], slower)
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
