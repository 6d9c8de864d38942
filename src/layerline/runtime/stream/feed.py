"""The minibatches of a stream: order, parts, examples, labels, seeds, rates.

All of it is a function of the seed and the number of the step. So nodes know it without being told, and none of it
travels; only the process with the first block has the examples themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layerline.data.text_set import AnySet, TextSet
from layerline.runtime.seeding import generator
from layerline.runtime.stream.examples import stream_examples
from layerline.runtime.stream.model import StreamModel


class Feed:
    """The minibatches of a run by step, counted from 0 over all epochs."""

    def __init__(self, model: StreamModel, data: AnySet) -> None:
        self._model, self.run = model, model.run
        device = model.device
        self._examples = stream_examples(data if isinstance(data, TextSet) else data.train, self.run, device)
        self.batches = -(-len(self._examples) // self.run.batch_size)
        self._epoch, self._step = -1, -1
        self._order: Tensor
        self._parts: tuple[Tensor, ...]
        self._taken: tuple[tuple[int, int], tuple[Tensor, Tensor]] | None = None

    @property
    def steps(self) -> int:
        """Minibatches of the whole run."""
        return min(self.run.epochs * self.batches, self.run.max_steps or self.run.epochs * self.batches)

    def place(self, step: int) -> tuple[int, int]:
        """Epoch and minibatch, from 0."""
        return divmod(step, self.batches)

    def ends_epoch(self, step: int) -> bool:
        """Whether it is the last step of an epoch, or of the run."""
        return (step + 1) % self.batches == 0 or step + 1 == self.steps

    def epochs_after(self, step: int) -> int:
        """Epochs that have come to their end with a step, the last one also where it is cut short; after step -1, 0."""
        return self.place(step)[0] + self.ends_epoch(step) if step >= 0 else 0

    def examples(self, step: int) -> int:
        """Examples of its epoch up to a step, itself included."""
        return min((step % self.batches + 1) * self.run.batch_size, len(self._examples))

    def parts(self, step: int) -> tuple[Tensor, ...]:
        """The examples of each microbatch by number; a small minibatch may have fewer microbatches."""
        if step != self._step:
            epoch, batch = self.place(step)
            if epoch != self._epoch:
                self._epoch, self._order = epoch, self._examples.order(epoch)
            begin = batch * self.run.batch_size
            self._step = step
            self._parts = self._order[begin : begin + self.run.batch_size].chunk(self.run.parts)
        return self._parts

    def minibatch(self, step: int) -> tuple[Tensor, Tensor]:
        """What the first block sees of a whole minibatch, and its labels."""
        raw, labels = self._examples.take(torch.cat(self.parts(step)), self.place(step)[0])
        return self._model.encoded(raw), labels

    def count(self, step: int, part: int) -> int:
        """The examples of a microbatch; 0 where a small minibatch has fewer microbatches."""
        parts = self.parts(step)
        return len(parts[part]) if part < len(parts) else 0

    def share(self, step: int, part: int) -> float:
        """The fraction of the minibatch that a microbatch is."""
        parts = self.parts(step)
        return len(parts[part]) / sum(map(len, parts))

    def inputs(self, step: int, part: int) -> Tensor:
        """What the first block sees of a microbatch."""
        return self._model.encoded(self._take(step, part)[0])

    def labels(self, step: int, part: int) -> Tensor:
        """The labels of a microbatch."""
        if self._taken is not None and self._taken[0] == (step, part):
            return self._taken[1][1]
        return self._examples.labels(self.parts(step)[part], self.place(step)[0])

    def seed(self, block: int, step: int, part: int) -> int:
        """Of what modules draw in a block's forward pass."""
        return generator(self.run.seed, "module", block, *self.place(step), part).initial_seed()

    def lr(self, step: int) -> float:
        """The learning rate of a step's update."""
        run, (epoch, batch) = self.run, self.place(step)
        return run.optimizer.lr * run.rate.factor(epoch + batch / self.batches, run.epochs)

    def _take(self, step: int, part: int) -> tuple[Tensor, Tensor]:
        """Raw inputs and labels of a microbatch; of the last one again for nothing."""
        if self._taken is None or self._taken[0] != (step, part):
            taken = self._examples.take(self.parts(step)[part], self.place(step)[0])
            self._taken = (step, part), taken
        return self._taken[1]
