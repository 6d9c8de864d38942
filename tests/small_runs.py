"""Small data, small runs, and driving them: what the tests of the core share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from layerline.data.dataset import Dataset, Examples
from layerline.errors import Stopped
from layerline.events import EpochDone as EpochDone
from layerline.events import Event, Minibatch, Row
from layerline.run import Run
from layerline.runs import AnyRun
from layerline.runtime.checkpoint import Checkpoints, Progress
from layerline.runtime.execute import Execution, make_trainer
from layerline.runtime.model import Model, build_model
from layerline.runtime.pipeline import Pipeline
from layerline.runtime.saved import weights_sha256
from layerline.runtime.stop import Stop
from layerline.runtime.stream.model import build_stream_model
from layerline.schedules.plan import Plan
from layerline.stream_run import StreamRun


def small_data(
    count: int = 41, classes: int = 4, shape: tuple[int, ...] = (1, 5, 5), seed: int = 0, noise: float = 40.0
) -> Dataset:
    """Noisy copies of one random example per class: uint8 for images, float32 for vectors."""
    draw = torch.Generator().manual_seed(seed)
    prototypes = torch.randint(40, 216, (classes, *shape), generator=draw).float()

    def examples(n: int) -> Examples:
        labels = torch.arange(n) % classes
        inputs = (prototypes[labels] + noise * torch.randn(n, *shape, generator=draw)).clamp(0, 255)
        return Examples(inputs.to(torch.uint8) if len(shape) == 3 else inputs / 255, labels)

    return Dataset("small", examples(count), examples(max(classes, count // 2)), tuple(f"c{k}" for k in range(classes)))


def small_run(**settings: Any) -> Run:
    """A run of seconds' fractions; `settings` are tables as in TOML."""
    base: dict[str, Any] = {
        "dataset": "small",
        "network": {"kind": "mlp", "widths": [9, 8, 7]},
        "labels": {"strength": 3.0},
        "epochs": 2,
        "batch_size": 16,
        "optimizer": {"lr": 0.01},
        "precision": "32-true",
        "threads": 1,
        "device": "cpu",
        "checkpoint_seconds": 1e9,
    }
    return Run.from_dict(base | settings)


def small_stream(**settings: Any) -> StreamRun:
    """A run in a stream, of seconds' fractions: three convolutional blocks."""
    base: dict[str, Any] = {
        "kind": "stream",
        "dataset": "small",
        "network": {"kind": "conv", "widths": [4, 8, 8], "classifier": "linear"},
        "head": {"kind": "linear"},
        "epochs": 2,
        "batch_size": 16,
        "optimizer": {"lr": 0.05},
        "precision": "32-true",
        "threads": 1,
        "device": "cpu",
        "checkpoint_seconds": 1e9,
    }
    return StreamRun.from_dict(base | settings)


LOCAL: dict[str, Any] = {"objective": {"kind": "local-cross-entropy"}, "readout": {"kind": "all-heads"}}
BACKPROP: dict[str, Any] = {"objective": {"kind": "backprop"}, "readout": {"kind": "last-head"}}
UNSUPERVISED: dict[str, Any] = {"negatives": {"kind": "masked-hybrid", "bank": 16}, "readout": {"kind": "softmax"}}

Blocks = Callable[[], list[nn.Module]]


class Outcome:
    """What training left: the model, its digest, the rows and the curve."""

    def __init__(self, model: Model, progress: Progress) -> None:
        self.model = model
        self.sha256 = weights_sha256(model)
        self.rows: list[Row] = progress.rows
        self.curve = [(look.epoch, look.accuracy) for look in progress.curve]


def train_through(
    run: AnyRun, data: Dataset, stops: list[int], folder: Path | None = None, blocks: Blocks | None = None
) -> Outcome:
    """Train to the end, in parts: part i ends after `stops[i]` more minibatches, the next goes on from its checkpoint.

    Every part has a fresh model and trainer, as in a new process.
    """
    left = list(stops)
    while True:
        model = fresh_model(run, data, blocks)
        checkpoints = Checkpoints(folder, run.digest(), data.digest()) if folder else None
        stop = Stop()
        trained = 0

        def hear(event: Event, stop: Stop = stop) -> None:
            nonlocal trained
            trained += isinstance(event, Minibatch | EpochDone)
            if left and trained >= left[0]:
                stop.exit_status = 75

        execution = Execution(make_trainer(model, data), data, checkpoints, hear, stop)
        execution.restore()
        try:
            return Outcome(model, execution.run())
        except Stopped:
            left.pop(0)


def plan_through(run: Run, plan: Plan, data: Dataset, folder: Path, stops: list[int]) -> str:
    """Carry a plan out to the end; each of `stops` ends a sitting after so many minibatches, the next starts from disk.

    The digest of the weights.
    """
    left = list(stops)
    while True:
        pipeline, stop, heard = Pipeline(run, plan, data, folder), Stop(), itertools.count(1)

        def hear(event: Event, stop: Stop = stop, heard: Iterator[int] = heard) -> None:
            if isinstance(event, Minibatch | EpochDone) and left and next(heard) >= left[0]:
                stop.exit_status = 75

        try:
            pipeline.work(hear, stop, pipeline.here())
        except Stopped:
            left.pop(0)
        else:
            return weights_sha256(pipeline.model())


def fresh_model(run: AnyRun, data: Dataset, blocks: Blocks | None = None) -> Model:
    """An untrained model; blocks of one's own are drawn from a fixed seed."""
    if isinstance(run, StreamRun):
        return cast(Model, build_stream_model(run, data))  # tests of streams ask it for what both have
    if blocks is None:
        return build_model(run, data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return build_model(run, data, blocks())


def minibatches(run: AnyRun, data: Dataset, blocks: Blocks | None = None) -> int:
    """Of the whole run."""
    return make_trainer(fresh_model(run, data, blocks), data).steps


def largest_error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest number expected."""
    scale = float(expected.double().abs().max())
    error = float((actual.double() - expected.double()).abs().max())
    return error / scale if scale else error
