"""Our step beside the ordinary way, in one run.

The ordinary way is what the common public implementations do: float32, one nn.Linear per block, separate passes for the
positive and the negative view, autograd for each block, PyTorch's default Adam (not fused).

    python benchmarks/step.py [--batch 64] [--threads 2] [--minibatches 20]

Both are measured in turns on the same minibatches of MNIST (or --dataset); the best turn of each counts.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

from layerline.data.catalog import load_dataset
from layerline.data.dataset import Dataset
from layerline.run import Run
from layerline.runtime.execute import make_trainer
from layerline.runtime.model import build_model
from layerline.runtime.trainer import Trainer

TURNS = 5


class OrdinaryLayer(nn.Linear):
    """A Forward-Forward layer as it is commonly written."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(super().forward(x / (x.norm(2, 1, keepdim=True) + 1e-4)))

    def learn(self, positive: Tensor, negative: Tensor, theta: float = 2.0) -> tuple[Tensor, Tensor]:
        """One step on a minibatch; the outputs for the next layer."""
        h_positive, h_negative = self(positive), self(negative)
        goodness = torch.cat([theta - h_positive.pow(2).mean(1), h_negative.pow(2).mean(1) - theta])
        loss = functional.softplus(goodness).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return h_positive.detach(), h_negative.detach()


def ordinary_seconds(layers: list[OrdinaryLayer], data: Dataset, batch: int, count: int) -> float:
    """Mean seconds of a minibatch, the ordinary way."""
    images = data.train.inputs.flatten(1).float() / 255
    labels = data.train.labels
    begin = time.perf_counter()
    for step in range(count):
        part = slice(step * batch, (step + 1) * batch)
        positive, negative = images[part].clone(), images[part].clone()
        wrong = (labels[part] + torch.randint(1, 10, labels[part].shape)) % 10
        for view, label in ((positive, labels[part]), (negative, wrong)):
            view[:, :10] = functional.one_hot(label, 10)
        for layer in layers:
            positive, negative = layer.learn(positive, negative)
    return (time.perf_counter() - begin) / count


def minibatch_seconds(trainer: Trainer, count: int) -> float:
    """Mean seconds of `count` minibatches in training."""
    events = trainer.train()
    next(events)
    begin = time.perf_counter()
    for _ in range(count):
        next(events)
    return (time.perf_counter() - begin) / count


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[64])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--minibatches", type=int, default=20)
    parser.add_argument("--dataset", default="mnist")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = load_dataset(arguments.dataset)
    table = Table(title=f"{arguments.dataset}, 2000×4, Forward-Forward, {arguments.threads} threads: s per epoch")
    for column in ("batch", "ordinary way", "layerline fp32", "layerline bf16", "ordinary / bf16"):
        table.add_column(column, justify="right")
    for batch in arguments.batch:
        sizes = (data.features, 2000, 2000, 2000, 2000)
        layers = [OrdinaryLayer(i, o) for i, o in pairwise(sizes)]
        trainers = []
        for precision in ("32-true", "bf16-mixed"):
            run = Run.from_dict({"batch_size": batch, "precision": precision})
            trainer = make_trainer(build_model(run, data), data)
            assert isinstance(trainer, Trainer)
            trainers.append(trainer)
        best = [float("inf")] * 3
        for _ in range(TURNS):
            turn = [ordinary_seconds(layers, data, batch, arguments.minibatches)]
            turn += [minibatch_seconds(trainer, arguments.minibatches) for trainer in trainers]
            best = [min(old, new) for old, new in zip(best, turn, strict=True)]
        epochs = [seconds * len(data.train) / batch for seconds in best]
        table.add_row(str(batch), *(f"{s:.1f}" for s in epochs), f"{best[0] / best[2]:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
