"""How long planning takes: writing a plan, validating it, finding its messages, simulating it.

    python benchmarks/planning.py [--blocks 1000] [--nodes 1000] [--chapters 1000]

Without flags: a million slots of All-Layers, and smaller plans of the other schedules. PyTorch is not imported.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from layerline.schedules.all_layers import AllLayers
from layerline.schedules.base import BaseSchedule
from layerline.schedules.costs import Machine, Sizes, World, estimate
from layerline.schedules.federated import Federated
from layerline.schedules.lower import messages
from layerline.schedules.simulate import simulate
from layerline.schedules.single_layer import SingleLayer
from layerline.schedules.validate import validate
from layerline.schedules.work import Work

T = TypeVar("T")


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """A result, and the seconds it took."""
    begin = time.perf_counter()
    result = call()
    return result, time.perf_counter() - begin


def measure(schedule: BaseSchedule, blocks: int, nodes: int, chapters: int) -> list[str]:
    """A row of the table."""
    sizes = Sizes(inputs=784, units=(2000,) * blocks, classes=10, examples=60_000, batch=64)
    costs = estimate(sizes, Machine())
    work = costs.work(Work(blocks=blocks, nodes=nodes, chapters=chapters))
    plan, planned = timed(lambda: schedule.plan(work))
    _, validated = timed(lambda: validate(plan))
    sent, lowered = timed(lambda: messages(plan))
    found, simulated = timed(lambda: simulate(plan, costs, World(bandwidth=1.25e8, latency=1e-3), sent))
    seconds = (planned, validated, lowered, simulated)
    shape = f"{plan.schedule} {blocks} × {nodes} × {chapters}"
    counts = (f"{plan.slots:,}", f"{len(plan):,}", f"{len(sent):,}")
    return [shape, *counts, *(f"{s:.2f}" for s in (*seconds, sum(seconds))), f"{found.speedup:.1f}"]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=1000)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--chapters", type=int, default=1000)
    arguments = parser.parse_args()
    table = Table(title="Seconds; blocks × nodes × chapters, links of 1 Gbit/s")
    for column in ("plan", "slots", "rows", "messages", "write", "validate", "messages", "simulate", "all", "speed-up"):
        table.add_column(column, justify="left" if column == "plan" else "right", no_wrap=True)
    table.add_row(*measure(AllLayers(), arguments.blocks, arguments.nodes, arguments.chapters))
    table.add_row(*measure(AllLayers(), 100, 100, 1000))
    table.add_row(*measure(SingleLayer(hand_over="activations"), 100, 100, 1000))
    table.add_row(*measure(SingleLayer(), 40, 40, 1000))
    table.add_row(*measure(Federated(average=True), 8, 16, 100))
    Console(width=130).print(table)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"peak memory {peak:.2f} GB; torch imported: {'torch' in sys.modules}")


if __name__ == "__main__":
    main()
