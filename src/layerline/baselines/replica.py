"""A node of data-parallel training: the whole network in PyTorch's DistributedDataParallel, and a slice of every
minibatch.

The minibatch is the one of everybody else: its microbatches are dealt out in a row, so many to each node. DDP divides
the sum of gradients by the number of nodes, so a loss counts as often as there are nodes. Statistics of batch norm are
those of the first node, as DDP does it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from layerline.baselines.part import Part, padded
from layerline.baselines.step import Loss, MethodStep
from layerline.runtime.stream.feed import Feed
from layerline.runtime.stream.model import StreamModel
from layerline.runtime.stream.node import StreamNode
from layerline.schedules.plan import Action
from layerline.schedules.replicated import Replicated
from layerline.schedules.stream import Mark


class ReplicaStep(MethodStep):
    """The copy of node `number`. The process group stands."""

    def __init__(self, model: StreamModel, node: StreamNode, feed: Feed, division: Replicated, number: int) -> None:
        super().__init__(node, number, feed, division.order())
        run = model.run
        self._nodes, self._each = run.nodes, run.microbatches
        self._rows = -(-run.batch_size // run.parts)
        self._loss = Loss(node, model.reach.blocks - 1, run.smoothing)
        self._loss.factor = float(run.nodes)
        part = Part(model, range(model.reach.blocks), feed, self._rows).train()
        self._copy: nn.Module = DistributedDataParallel(part)
        self._settle(part)
        weights = sum(p.numel() * p.element_size() for p in _trained(part))
        self._ring = 2 * (run.nodes - 1) * weights // run.nodes
        self._latest = 0.0
        for parameter in _trained(part):
            parameter.register_post_accumulate_grad_hook(self._noted)

    def _learn(self, step: int) -> None:
        feed, first = self.feed, self.number * self._each
        self._loss.total = sum(len(part) for part in feed.parts(step))
        for m in range(self._each):
            part, last = first + m, m + 1 == self._each
            there = feed.count(step, part) > 0
            x, labels = feed.inputs(step, part if there else 0), feed.labels(step, part if there else 0)
            if not there:
                labels = torch.full_like(labels, -1)
            with nullcontext() if last else self._copy.no_sync(), torch.enable_grad():  # type: ignore[operator]
                with self.busy(Mark(Action.FORWARD, self.number, m)):
                    scores = self._copy(padded([x], self._rows, 1), torch.tensor([[step, part]]))
                    loss = self._loss(scores, padded([labels], self._rows, 1, -1))
                self.doing.begins(self.number, Action.BACKWARD)
                begin = self._latest = time.perf_counter()
                loss.backward()
                self.note(Mark(Action.BACKWARD, self.number, m), begin, self._latest)
        self.sent += self._ring

    def _settle(self, part: Part) -> None:
        """A first step for nothing.

        PyTorch deals gradients into other buckets after its first step, and where one lies there decides in which order
        gloo adds three of them up: a run that goes on would have other last bits than one that was never stopped.
        """
        kept = {name: buffer.clone() for name, buffer in part.named_buffers()}
        with torch.enable_grad():
            scores = self._copy(padded([self.feed.inputs(0, 0)], self._rows, 1), torch.zeros(1, 2, dtype=torch.int64))
            scores.sum().backward()
        for parameter in _trained(part):
            assert parameter.grad is not None
            parameter.grad.zero_()  # the memory that the update reads
        for name, buffer in part.named_buffers():
            buffer.copy_(kept[name])

    def _updates(self) -> Iterator[tuple[Mark, Sequence[int]]]:
        yield Mark(Action.UPDATE, self.number), self.node.blocks

    def gather(self) -> bool:
        for tensor in self.node.sums():
            dist.all_reduce(tensor)
        return self.number == 0

    def _noted(self, parameter: Tensor) -> None:
        """A gradient is there: what comes after the last one is waiting for the others."""
        self._latest = time.perf_counter()


def _trained(part: Part) -> list[nn.Parameter]:
    return [parameter for parameter in part.parameters() if parameter.requires_grad]
