"""What a schedule's freedoms cost in accuracy: test accuracy of each, beside Sequential training, over several seeds.

Every row is the preset with the settings named, all nodes in one process: who carries out a plan does not matter.

    python benchmarks/exactness.py [digits] [--epochs 40] [--seeds 0 1 2 3 4] [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from rich.console import Console
from rich.table import Table

from layerline.api import train
from layerline.presets.presets import preset
from layerline.run import Run

ADAPTIVE: dict[str, Any] = {"negatives": {"kind": "adaptive"}}
ALL: dict[str, Any] = {"schedule": {"kind": "all-layers"}, "nodes": 3}
SINGLE: dict[str, Any] = {"schedule": {"kind": "single-layer"}, "nodes": 3}
FEDERATED: dict[str, Any] = {"schedule": {"kind": "federated"}, "nodes": 3}
ROWS: dict[str, dict[str, Any]] = {
    "Sequential, random negatives": {},
    "All-Layers, moments travel (the same bits)": ALL,
    "All-Layers, moments stay": ALL | {"send_optimizer_state": False},
    "All-Layers, int8 on the wire": ALL | {"codec": {"kind": "int8"}},
    "All-Layers, int8, moments stay": ALL | {"codec": {"kind": "int8"}, "send_optimizer_state": False},
    "Federated ring, shards alike": FEDERATED,
    "Federated ring, Dirichlet α = 0.1": FEDERATED | {"shards": {"kind": "dirichlet", "concentration": 0.1}},
    "Federated, averaged, shards alike": FEDERATED | {"schedule": {"kind": "federated", "average": True}},
    "Sequential, adaptive negatives": ADAPTIVE,
    "All-Layers, adaptive (3 chapters old)": ADAPTIVE | ALL,
    "Single-Layer, adaptive (2 to 4 chapters old)": ADAPTIVE | SINGLE,
}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", nargs="?", default="digits")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    table = Table(title=f"{arguments.preset}, {arguments.epochs} epochs, seeds {arguments.seeds}: test accuracy in %")
    for column in ("", "mean", "lowest", "highest", "MB a chapter"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    base = preset(arguments.preset).run.to_dict()
    base |= {"order": "chapters", "epochs": arguments.epochs, "threads": arguments.threads}
    base.pop("chapters", None)
    for name, settings in ROWS.items():
        results = [train(Run.from_dict(base | settings | {"seed": seed})).values for seed in arguments.seeds]
        right = [100 * result["test_accuracy"] for result in results]
        megabytes = results[0].get("bytes_sent", 0) / arguments.epochs / 1e6
        cells = [statistics.mean(right), min(right), max(right)]
        table.add_row(name, *(f"{cell:.2f}" for cell in cells), f"{megabytes:.2f}" if megabytes else "–")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
