"""Accuracy and training time of presets over several seeds, as a table.

    python benchmarks/accuracy.py ff-mnist local-ce-mnist --seeds 0 1 2
    python benchmarks/accuracy.py ff-mnist --precision 32-true          any flag of `layerline train` after the presets
    python benchmarks/accuracy.py ff-cifar10 --seeds 0 --validation --eval-every 1 --plot curve.svg
    python benchmarks/accuracy.py runs/ff-cifar10/* --plot curve.svg    folders of finished runs: nothing is trained
    python benchmarks/accuracy.py runs/dgl-cifar10/* --training --plot curve.svg     of folders; see below

With --validation the test set stays unread and the accuracy is that of the held-out end of the training set; with
--eval-every N the accuracy after every N epochs is kept, and --plot draws it against training seconds (needs the extra
`report`). With --training it draws how right the last block was while it learned, epoch by epoch, which every run
folder has (`metrics.csv`), also of runs that looked at no held-out data before their end.

Every run goes through the command line, in a process of its own.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from pathlib import Path
from typing import Any

from kept_cells import train
from rich.console import Console
from rich.table import Table


def runs_of(start: str, seeds: list[int], flags: list[str]) -> list[dict[str, Any]]:
    """The result.json of a preset's runs, or of the finished run in a folder."""
    finished = Path(start) / "result.json"
    if finished.exists():
        return [json.loads(finished.read_text(encoding="utf-8"))]
    return [train(start, "--seed", str(seed), *flags) for seed in seeds]


def held_out(result: dict[str, Any]) -> float:
    """Accuracy on whichever held-out set the run was judged on, in percent."""
    value = result["test_accuracy"] if result["test_accuracy"] is not None else result["validation_accuracy"]
    return 100 * float(value)


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Accuracy against training seconds, one line per run."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for result in results:
        points = [(p["seconds"], 100 * p.get("validation", p.get("test"))) for p in result["curve"]]
        label = f"{result['preset']}, {points[-1][1]:.2f} % after {points[-1][0]:.0f} s"
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label)
    split = "validation" if results[0]["validation_accuracy"] is not None else "test"
    threads = results[0]["threads"]
    axes.set(xlabel=f"training time in s ({threads} thread{'s' * (threads > 1)})", ylabel=f"{split} accuracy in %")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path)


def plot_training(folders: list[str], path: Path) -> None:
    """Accuracy of the last block on what it learned from, epoch by epoch, one line per run folder."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for folder in map(Path, folders):
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["block"].isdigit()]
        last = max(int(row["block"]) for row in rows)
        points = [(int(row["epoch"]), 100 * float(row["accuracy"])) for row in rows if int(row["block"]) == last]
        label = f"{result['preset']}, seed {result['seed']}: {points[-1][1]:.1f} %, held out {held_out(result):.2f} %"
        axes.plot(*zip(*points, strict=True), label=label)
    axes.set(xlabel="epoch", ylabel="accuracy on training examples in %")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path)


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="+", help="Presets, or folders of finished runs.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--training", action="store_true", help="Draw training examples; of run folders.")
    arguments, flags = parser.parse_known_args()
    table = Table(title=" ".join(["accuracy and training time", *flags]))
    for column in ("preset", "seed", "accuracy %", "readouts %", "training s", "threads", "weights"):
        table.add_column(column, justify="left" if column == "preset" else "right")
    results = []
    for preset in arguments.presets:
        runs = runs_of(preset, arguments.seeds, flags)
        results += runs
        for run in runs:
            readouts = " ".join(f"{name} {100 * value:.2f}" for name, value in run["readouts"].items())
            cells = [f"{held_out(run):.2f}", readouts, f"{run['train_seconds']:.1f}", str(run["threads"])]
            table.add_row(run["preset"], str(run["seed"]), *cells, run["weights_sha256"][:8])
        mean = statistics.mean(map(held_out, runs))
        seconds = statistics.mean(run["train_seconds"] for run in runs)
        table.add_row(
            runs[0]["preset"], "mean", f"{mean:.2f}", "", f"{seconds:.1f}", "", "", style="bold", end_section=True
        )
    Console().print(table)
    if arguments.plot and arguments.training:
        plot_training(arguments.presets, arguments.plot)
    elif arguments.plot:
        plot(results, arguments.plot)


if __name__ == "__main__":
    main()
