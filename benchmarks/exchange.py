"""What exchanging per batch brings and costs: the digits (128-128-128 units) over four nodes, five seeds.

    python benchmarks/exchange.py            # about four minutes on a core

One process carries all nodes out: processes change neither bits nor bytes. Every line is the mean of the seeds; bytes
are `bytes_sent` of `result.json`, beside what `layerline plan` says, to which every message adds a header and a table.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from layerline import api
from layerline.data.catalog import load_dataset
from layerline.presets.presets import preset
from layerline.run import Run
from layerline.runtime.planning import planned, sizes_of
from layerline.schedules.costs import Machine, World, estimate
from layerline.schedules.simulate import simulate

SHARDS: dict[str, dict[str, Any]] = {
    "IID": {"kind": "iid"},
    "Dirichlet 0.3": {"kind": "dirichlet", "concentration": 0.3},
    "by label": {"kind": "by-label"},
}


def runs(epochs: int) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The data, how often nodes exchange and how fast they learn, and the settings."""
    common = {"nodes": 4, "order": "chapters", "epochs": epochs}
    for name, shards in SHARDS.items():
        for rate in (0.002, 0.008):
            for exchange in ("chapter", "batch"):
                schedule = {"kind": "federated", "average": True}
                given = {"schedule": schedule, "shards": shards, "exchange": exchange, "optimizer": {"lr": rate}}
                yield f"{name}, private", f"{exchange}, lr {rate}", common | given
    for exchange in ("chapter", "batch"):
        yield (
            "the whole set, all-layers",
            exchange,
            common | {"schedule": {"kind": "all-layers"}, "exchange": exchange, "nodes": 3},
        )


def main() -> None:
    """Train, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--only", default="", help="Lines whose data is called so: IID, Dirichlet, label, all-layers.")
    asked = parser.parse_args()
    data = load_dataset("digits")
    digits = preset("digits").run.to_dict() | {"network": {"kind": "mlp", "widths": [128] * 3}, "threads": 1}
    print("| data | exchange | test accuracy % | from – to | MB sent | MB planned | messages |")
    print("|---|---|---|---|---|---|---|")
    for shards, exchange, settings in runs(asked.epochs):
        if asked.only not in shards:
            continue
        found, sent = [], 0
        for seed in range(asked.seeds):
            run = Run.from_dict(digits | settings | {"seed": seed})
            with tempfile.TemporaryDirectory() as folder:
                values = api.train(run, data=data, out_dir=Path(folder) / "run").values
            found.append(100 * values["test_accuracy"])
            sent = values.get("bytes_sent", 0)
        sizes = sizes_of(run, data.shape, data.num_classes, len(data.train))
        assert sizes is not None
        world = World(moments_travel=run.send_optimizer_state)
        plan = simulate(planned(run, len(sizes.units), sizes), estimate(sizes, Machine()), world)
        numbers = f"{statistics.mean(found):.2f} | {min(found):.2f} – {max(found):.2f}"
        traffic = f"{sent / 1e6:,.2f} | {plan.bytes.sum() / 1e6:,.2f} | {len(plan.messages):,}"
        print(f"| {shards} | {exchange} | {numbers} | {traffic} |", flush=True)


if __name__ == "__main__":
    main()
