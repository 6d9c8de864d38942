"""Step time over its bound, measured on the spot.

The bound of one epoch is what cannot be left out of a local step of Linear + ReLU at this precision and thread count:
for every block the forward product, the product of the weight gradient, the fused Adam update and, in bf16, the casts
of the gradient to float32 and of the weights to bfloat16. The first block multiplies an image once, not once per view.
Everything else an epoch does (reading, labels, goodness, normalisers, random numbers) is what the ratio shows.

    python benchmarks/roofline.py [--batch 64 256] [--threads 2] [--rule ff local-ce] [--hardest 0.25]

Bound and epoch are measured in turns, and the best of the turns is taken, so that a shared machine disturbs both alike.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from rich.console import Console
from rich.table import Table

from layerline.data.catalog import load_dataset
from layerline.data.dataset import Dataset
from layerline.objectives.optimizer import Adam
from layerline.run import Run
from layerline.runtime.execute import make_trainer
from layerline.runtime.model import PRECISIONS, build_model
from layerline.runtime.trainer import Trainer

TURNS = 5


def seconds(work: Callable[[], object], least: float = 0.2) -> float:
    """Seconds one call takes, over at least `least` seconds."""
    work()
    calls, begin = 0, time.perf_counter()
    while (spent := time.perf_counter() - begin) < least:
        work()
        calls += 1
    return spent / calls


def bound_parts(trainer: Trainer) -> dict[str, list[Callable[[], object]]]:
    """The operations of one minibatch that cannot be left out, as calls on buffers of the right shapes."""
    run = trainer.run
    dtype = PRECISIONS[run.precision]
    views = run.objective.views
    parts: dict[str, list[Callable[[], object]]] = {"forward": [], "weight gradient": [], "Adam": [], "casts": []}
    inputs = trainer.model.encoder.input_shape[0]
    for index, units in enumerate(trainer.model.network.units):
        rows = run.batch_size * (views if index else 1)
        kept = max(1, round(rows * run.objective.hardest))
        x, dz = torch.randn(rows, inputs).to(dtype), torch.randn(kept, units).to(dtype)
        h, product = torch.empty(rows, units, dtype=dtype), torch.empty(units, inputs, dtype=dtype)
        weight, low = torch.randn(units, inputs), torch.randn(units, inputs).to(dtype)
        gradient = torch.randn(units, inputs)
        adam = Adam()
        state = adam.init([weight])
        parts["forward"].append(partial(torch.mm, x, low.t(), out=h))
        parts["weight gradient"].append(partial(torch.mm, dz.t(), x[:kept], out=product))
        parts["Adam"].append(partial(adam.step, state, [weight], [gradient]))
        if dtype != torch.float32:
            parts["casts"] += [partial(gradient.copy_, product), partial(low.copy_, weight)]
        inputs = units
    return parts


def minibatch_seconds(trainer: Trainer, count: int) -> float:
    """Mean seconds of `count` minibatches in training."""
    events = trainer.train()
    next(events)
    begin = time.perf_counter()
    for _ in range(count):
        next(events)
    return (time.perf_counter() - begin) / count


def measure(run: Run, data: Dataset) -> tuple[dict[str, float], float]:
    """Seconds of each part of the bound, and of the real minibatch."""
    trainer = make_trainer(build_model(run, data), data)
    parts = bound_parts(trainer)
    best = {name: float("inf") for name in parts}
    real = float("inf")
    count = max(4, 2048 // run.batch_size)
    for _ in range(TURNS):
        for name, calls in parts.items():
            best[name] = min(best[name], sum(seconds(call) for call in calls))
        real = min(real, minibatch_seconds(trainer, count))
    return best, real


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rule", choices=["ff", "local-ce"], nargs="+", default=["ff", "local-ce"])
    parser.add_argument("--precision", choices=list(PRECISIONS), default="bf16-mixed")
    parser.add_argument("--hardest", type=float, default=1.0, help="share of the rows in the weight gradient")
    parser.add_argument("--dataset", default="mnist")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = load_dataset(arguments.dataset)
    hardest = arguments.hardest
    rules = {
        "ff": {"objective": {"kind": "forward-forward", "hardest": hardest}},
        "local-ce": {
            "objective": {"kind": "local-cross-entropy", "hardest": hardest},
            "readout": {"kind": "all-heads"},
        },
    }
    table = Table(title=f"{arguments.dataset}, 2000×4, {arguments.precision}, {arguments.threads} threads: s per epoch")
    for column in ("rule", "batch", "forward", "weight gradient", "Adam", "casts", "bound", "measured", "ratio"):
        table.add_column(column, justify="right")
    for rule in arguments.rule:
        for batch in arguments.batch:
            run = Run.from_dict({"batch_size": batch, "precision": arguments.precision, **rules[rule]})
            parts, real = measure(run, data)
            per_epoch = len(data.train) / batch
            bound = sum(parts.values())
            cells = [*parts.values(), bound, real]
            table.add_row(rule, str(batch), *(f"{s * per_epoch:.2f}" for s in cells), f"{real / bound:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
