"""Slot costs measured on this machine: real steps of a run's own learners, on made-up data.

Problem: an assumed machine is not this one. Solution: for every stage a few real minibatches are trained, and a few
chunks of the set forwarded, with the run's objective, precision and threads; the seconds are scaled to a chapter. What
the negatives cost is a real ranking of a part of the images. Bytes come from the formula, which knows them exactly.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from layerline.data.dataset import Dataset, Examples
from layerline.data.shards import Iid
from layerline.readouts.readouts import Softmax, features
from layerline.run import Run
from layerline.runtime.chapters import ChapterTrainer
from layerline.runtime.learner import BlockInput
from layerline.runtime.model import CHUNK_ROWS, build_model
from layerline.schedules.costs import Costs, Machine, Sizes, estimate

_WARM, _TIMED = 3, 12
_LONGEST = 2.0  # seconds for one of the numbers

Keep = Callable[[dict[str, torch.Tensor]], object]


def measure(
    run: Run, shape: tuple[int, ...], sizes: Sizes, *, budget: float | None = None, keep: Keep | None = None
) -> Costs:
    """Costs on this machine, with the run's threads (else one: what a node of several on a host has).

    `budget`: seconds for all of it, about; None: as long as steady numbers take. `keep`: what makes a slot's result
    durable; its time is part of the slot.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(run.threads or 1)
    try:
        return _Bench(run, shape, sizes, budget, keep).costs()
    finally:
        torch.set_num_threads(before)


class _Bench:
    """A run's learners and inputs of the right shapes."""

    def __init__(self, run: Run, shape: tuple[int, ...], sizes: Sizes, budget: float | None, keep: Keep | None) -> None:
        self.run, self.sizes, self.keep = run, sizes, keep
        count = max(run.batch_size, CHUNK_ROWS // sizes.views)
        draw = torch.Generator().manual_seed(0)
        inputs = torch.randint(0, 256, (count, *shape), generator=draw)
        if len(shape) == 3:
            examples = Examples(inputs.to(torch.uint8), torch.arange(count) % sizes.classes)
        else:
            examples = Examples(inputs / 255, torch.arange(count) % sizes.classes)
        data = Dataset("made up", examples, None, tuple(map(str, range(sizes.classes))))
        plain = run.replace(dataset="made up", nodes=1, speeds=(), order="chapters", validation=False, shards=Iid())
        self.model = build_model(plain, data)
        self.trainer = ChapterTrainer(self.model, data)
        self.raw = examples.inputs
        calls = 4 * len(self.trainer.learners) + 2 * sizes.head + 1
        self.each = _LONGEST if budget is None else budget / calls

    def costs(self) -> Costs:
        """All of them."""
        sizes = self.sizes
        steps = sizes.epochs * -(-sizes.examples // self.run.batch_size)
        chunks = sizes.examples / len(self.raw)
        train, forward = [], []
        for block in range(len(self.trainer.learners)):
            batch, chunk = self._input(block, self.run.batch_size), self._input(block, len(self.raw))
            begin = sizes.epochs * self._seconds(lambda b=block: self._begin_epoch(b))  # type: ignore[misc]
            train.append(begin + steps * self._seconds(lambda b=block, x=batch: self._learn(b, x)))  # type: ignore[misc]
            forward.append(chunks * self._seconds(lambda b=block, x=chunk: self._forward(b, x)))  # type: ignore[misc]
        if sizes.head:
            train.append(chunks * self._seconds(self._neutral) + steps * self._seconds(self._head))
        if self.keep:
            train = [seconds + self._kept(stage) for stage, seconds in enumerate(train)]
        ranking = chunks * self._seconds(lambda: self.model.scores(self.raw)) if sizes.judge else 0.0
        return replace(estimate(sizes, Machine()), train=tuple(train), forward=tuple(forward), ranking=ranking)

    def _input(self, block: int, count: int) -> BlockInput:
        """What a block is fed for so many images."""
        indices = torch.arange(count)
        if block == 0:
            return self.trainer.first_input(indices, 0, self.trainer.data.augmentation(0))
        units = self.model.network.units[block - 1]
        return torch.randn(self.sizes.views * count, units).relu().to(self.model.encoder.dtype)

    def _begin_epoch(self, block: int) -> None:
        """Also draws what `_learn` needs: dropout masks."""
        self.trainer.learners[block].begin_epoch(torch.Generator())

    def _learn(self, block: int, x: BlockInput) -> None:
        labels = self.trainer.data.labels[: self.run.batch_size]
        self.trainer.learners[block].learn(x, labels, 1e-6, 0)

    @torch.no_grad()
    def _forward(self, block: int, x: BlockInput) -> None:
        self.model.network.normaliser(self.trainer.learners[block].forward(x))

    @torch.inference_mode()
    def _neutral(self) -> None:
        assert isinstance(self.run.readout, Softmax)
        with self.model.autocast():
            features(self.model.network, self.model.encoder.neutral(self.raw), self.run.readout.skip)

    def _head(self) -> None:
        assert self.trainer.head is not None
        x = torch.zeros(self.run.batch_size, self.sizes.features, dtype=self.model.encoder.dtype)
        self.trainer.head.learn(x, self.trainer.data.labels[: self.run.batch_size], 1e-6)

    def _kept(self, stage: int) -> float:
        assert self.keep
        keep, tensors = self.keep, self.trainer.learner_tensors(stage)
        return self._seconds(lambda: keep(tensors))

    def _seconds(self, call: Callable[[], object]) -> float:
        """The median time of a call, warm; twice at least."""
        spent: list[float] = []
        while len(spent) < _WARM + _TIMED and (len(spent) < 2 or sum(spent) < self.each):
            begin = time.perf_counter()
            call()
            spent.append(time.perf_counter() - begin)
        return statistics.median(spent[min(_WARM, len(spent) // 2) :])
