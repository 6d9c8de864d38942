"""What blocks at different speeds, and codes at their boundaries, cost in accuracy: over several seeds, beside the
synchronous stream.

    python benchmarks/asynchronous.py                                     the digits, a small network: minutes
    python benchmarks/asynchronous.py dgl-cifar10 --epochs 15 --seeds 0   any preset of a stream
    python benchmarks/asynchronous.py --only codes

A slow-down is given to one block after the other, as in the paper (arXiv 2106.06401): a row is the mean over blocks and
seeds. Test accuracy in %.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from rich.console import Console
from rich.table import Table

from layerline.api import train
from layerline.data.catalog import load_dataset
from layerline.presets.presets import preset
from layerline.runtime.stream.model import build_stream_model
from layerline.stream_run import StreamRun

DIGITS: dict[str, Any] = {
    "kind": "stream",
    "dataset": "digits",
    "network": {"kind": "conv", "widths": [16, 32, 32]},
    "epochs": 10,
    "batch_size": 64,
    "optimizer": {"lr": 0.05},
    "precision": "32-true",
}
BOUNDARIES: dict[str, dict[str, Any]] = {
    "bfloat16": {"kind": "bf16"},
    "int8": {"kind": "int8"},
    "codes, 2 channels, 16 codes (16×)": {"kind": "vq", "dims": 2, "codes": 16},
    "codes, 4 channels, 256 codes (16×)": {"kind": "vq", "dims": 4, "codes": 256},
    "codes, 4 channels, 16 codes (32×)": {"kind": "vq", "dims": 4, "codes": 16},
    "codes, 8 channels, 256 codes (32×)": {"kind": "vq", "dims": 8, "codes": 256},
    "the same, decay 0.6": {"kind": "vq", "dims": 8, "codes": 256, "decay": 0.6},
}


class Bench:
    """The same run with other settings; `base` is that of a preset."""

    def __init__(self, base: dict[str, Any], seeds: list[int], console: Console) -> None:
        self.base, self.seeds, self.console = base, seeds, console
        run = StreamRun.from_dict(base)
        self.blocks = len(build_stream_model(run, load_dataset(run.dataset)).blocks)
        self.table = Table()
        for column in ("", "runs", "mean", "lowest", "highest", "ratio", "error"):
            self.table.add_column(column, justify="right" if column else "left", no_wrap=True)

    def row(self, name: str, *settings: dict[str, Any]) -> None:
        """Train with each of the settings, for every seed."""
        values = [
            train(StreamRun.from_dict(self.base | each | {"seed": s})).values for each in settings for s in self.seeds
        ]
        right = [100 * value["test_accuracy"] for value in values]
        crossed = [entry for value in values for entry in value["boundaries"]]
        plain = sum(entry["bytes"] * entry["ratio"] for entry in crossed)
        ratio = plain / max(1, sum(entry["bytes"] for entry in crossed))
        error = statistics.mean(entry["error"] for entry in crossed) if crossed else 0.0
        cells = [f"{cell:.2f}" for cell in (statistics.mean(right), min(right), max(right))]
        self.table.add_row(name, str(len(right)), *cells, f"{ratio:.1f}", f"{error:.3f}")
        self.console.print(name, *cells, f"{ratio:.1f}", f"{error:.3f}")

    def slowdowns(self, factors: list[float], buffers: list[int], pace: str) -> None:
        """One block slowed down, one after the other."""
        for buffer in buffers:
            for factor in factors:
                timing = {"kind": "async", "buffer": buffer, "pace": pace}
                slow = [
                    [factor if block == each else 1.0 for block in range(self.blocks)] for each in range(self.blocks)
                ]
                settings = [{"timing": timing | {"slowdowns": each}} for each in (slow if factor != 1 else slow[:1])]
                self.row(f"{pace} pace, M = {buffer}, one block × {factor:g}", *settings)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", nargs="?", help="a preset of a stream; left out: a small network on the digits")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--factors", type=float, nargs="+", default=[1.0, 1.2, 2.0, 4.0])
    parser.add_argument("--buffers", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--paces", nargs="+", default=["regular", "random"])
    parser.add_argument("--only", choices=["speeds", "codes"])
    arguments = parser.parse_args()
    base = preset(arguments.preset).run.to_dict() if arguments.preset else dict(DIGITS)
    base |= {"threads": arguments.threads} | ({"epochs": arguments.epochs} if arguments.epochs else {})
    console = Console(width=120)
    bench = Bench(base, arguments.seeds, console)
    bench.row("synchronous", {})
    if arguments.only != "codes":
        for pace in arguments.paces:
            bench.slowdowns(arguments.factors, arguments.buffers, pace)
    if arguments.only != "speeds":
        for name, boundary in BOUNDARIES.items():
            bench.row(name, {"boundary": boundary})
    bench.table.title = f"{base['dataset']}, {base['epochs']} epochs, seeds {arguments.seeds}: test accuracy in %"
    console.print(bench.table)


if __name__ == "__main__":
    main()
