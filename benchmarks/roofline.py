"""Whole-epoch time over its bound, measured on the spot.

The bound of an epoch is what cannot be left out of a local step of Linear + ReLU at this precision and thread count,
for every minibatch and block: the forward product, the product of the weight gradient, the fused Adam update and, in
bf16, the casts of the gradient to float32 and of the weights to bfloat16; with local cross-entropy also the three
products of the head. The first block multiplies an image once, not once per view. All else an epoch does (drawing
negatives and masks, reading, shifting, labels, goodness, normalisers, the epoch's numbers) is what the ratio shows.

    python benchmarks/roofline.py [ff-mnist local-ce-mnist] [--batch 64 256] [--threads 2] [--hardest 1]

The presets' own settings are used, with the minibatch and the share of rows in the weight gradient given here. The
bound is measured a dozen times in the course of the epoch, so that a shared machine disturbs both alike; means of all.
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
from layerline.events import EpochDone
from layerline.objectives.local_cross_entropy import LocalCrossEntropy
from layerline.objectives.optimizer import Adam
from layerline.presets.presets import preset
from layerline.run import Run
from layerline.runtime.execute import make_trainer
from layerline.runtime.model import PRECISIONS, build_model
from layerline.runtime.trainer import Trainer

ROUNDS = 12  # measurements of the bound in an epoch
PARTS = ("forward", "weight gradient", "Adam", "casts")
Operation = tuple[str, Callable[[], object]]


def operations(trainer: Trainer) -> list[Operation]:
    """What one minibatch cannot leave out, in the order of a step, on buffers of the right shapes, by part."""
    run = trainer.run
    dtype = PRECISIONS[run.precision]
    views = run.objective.views
    sequence: list[Operation] = []
    inputs, classes = trainer.model.encoder.input_shape[0], trainer.model.encoder.classes
    for index, units in enumerate(trainer.model.network.units):
        rows = run.batch_size * (views if index else 1)
        kept = max(1, round(rows * run.objective.hardest))
        x, dz = torch.randn(rows, inputs).to(dtype), torch.randn(kept, units).to(dtype)
        h, product = torch.empty(rows, units, dtype=dtype), torch.empty(units, inputs, dtype=dtype)
        weight, low = torch.randn(units, inputs), torch.randn(units, inputs).to(dtype)
        gradient = torch.randn(units, inputs)
        adam = Adam()
        update = partial(adam.step, adam.init([weight]), [weight], [gradient])
        sequence.append(("forward", partial(torch.mm, x, low.t(), out=h)))
        sequence.append(("weight gradient", partial(torch.mm, dz.t(), x[:kept], out=product)))
        if isinstance(run.objective, LocalCrossEntropy):
            head, slope = torch.randn(classes, units).to(dtype), torch.randn(rows, classes).to(dtype)
            sequence.append(("forward", partial(torch.mm, h, head.t())))
            sequence.append(("weight gradient", partial(torch.mm, slope, head, out=torch.empty_like(h))))
            sequence.append(("weight gradient", partial(torch.mm, slope.t(), h)))
        if dtype == torch.float32:
            sequence.append(("Adam", update))
        else:
            casts = partial(gradient.copy_, product), partial(low.copy_, weight)
            sequence += [("casts", casts[0]), ("Adam", update), ("casts", casts[1])]
        inputs = units
    return sequence


def bound_seconds(sequence: list[Operation], minibatches: int = 8) -> dict[str, float]:
    """Mean seconds of each part of a minibatch. In order, so that weights and moments come from memory as they do."""
    spent = dict.fromkeys(PARTS, 0.0)
    for _ in range(minibatches):
        for part, call in sequence:
            begin = time.perf_counter()
            call()
            spent[part] += time.perf_counter() - begin
    return {part: total / minibatches for part, total in spent.items()}


def measure(run: Run, data: Dataset) -> tuple[dict[str, float], float]:
    """Seconds of each part of the bound over an epoch, and of the real epoch, the second one of a training."""
    trainer = make_trainer(build_model(run, data), data)
    assert isinstance(trainer, Trainer)
    sequence = operations(trainer)
    bound_seconds(sequence)
    rounds: list[dict[str, float]] = []
    spent, epochs, minibatch = 0.0, 0, 0
    events = trainer.train()
    while epochs < 2:
        begin = time.perf_counter()
        event = next(events)
        if epochs == 1:
            spent += time.perf_counter() - begin
            minibatch += 1
            if minibatch % (trainer.batches // ROUNDS) == 0:
                rounds.append(bound_seconds(sequence))
        epochs += isinstance(event, EpochDone)
    scale = len(data.train) / run.batch_size / len(rounds)
    return {part: scale * sum(each[part] for each in rounds) for part in PARTS}, spent


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", default=["ff-mnist", "local-ce-mnist"])
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--hardest", type=float, default=1.0, help="share of the rows in the weight gradient")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table = Table(title=f"Linear + ReLU blocks, {arguments.threads} threads: s per epoch")
    for column in ("preset", "batch", *PARTS, "bound", "epoch", "ratio"):
        table.add_column(column, justify="left" if column == "preset" else "right", no_wrap=True)
    for name in arguments.presets:
        run = preset(name).run
        if not isinstance(run, Run):
            raise SystemExit(f"{name} trains in a stream; this is about Linear + ReLU blocks")
        data = load_dataset(run.dataset)
        for batch in arguments.batch:
            objective = run.objective.model_copy(update={"hardest": arguments.hardest})
            parts, real = measure(run.replace(batch_size=batch, objective=objective), data)
            bound = sum(parts.values())
            cells = [*parts.values(), bound, real]
            table.add_row(name, str(batch), *(f"{s:.2f}" for s in cells), f"{real / bound:.2f}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
