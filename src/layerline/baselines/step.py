"""What a method computes of one minibatch, in one process: until the gradients of its node's blocks are complete."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor

from layerline.runtime.stream.doing import Doing
from layerline.runtime.stream.feed import Feed
from layerline.runtime.stream.node import StreamNode
from layerline.runtime.stream.recording import recorded_steps
from layerline.runtime.stream.stage import judged
from layerline.schedules.stream import Mark


class MethodStep(ABC):
    """The share of node `number` of every minibatch; gradients add up in the node's stages."""

    def __init__(self, node: StreamNode, number: int, feed: Feed, rows: Sequence[Mark]) -> None:
        self.node, self.number, self.feed = node, number, feed
        self._numbers = {mark: number for number, mark in enumerate(rows)}
        self._recorded = frozenset(recorded_steps(feed.steps, len(rows)))
        self._step = 0
        self.sent = 0
        """Bytes that this process has sent to others."""
        self.done = 0
        """Steps."""
        self.doing = Doing({number: node}, lambda _: self.done)
        for stage in node.stages.values():
            stage.learn_by_backward()

    @final
    def learn(self, step: int) -> None:
        """Forward and backward of a minibatch. RuntimeError where a peer is lost."""
        self._step = step
        self._learn(step)

    @final
    def update(self, step: int) -> None:
        """All blocks of the node follow the gradients of the minibatch."""
        for mark, blocks in self._updates():
            with self.busy(mark):
                for block in blocks:
                    self.node.update(block, step)
        self.done = step + 1

    @abstractmethod
    def _learn(self, step: int) -> None:
        """As `learn`."""

    @abstractmethod
    def _updates(self) -> Iterator[tuple[Mark, Sequence[int]]]:
        """The rows of the update, and the blocks of each."""

    def gather(self) -> bool:
        """At the end of an epoch: bring the recorded losses together. Whether this node tells of them."""
        return True

    @contextmanager
    def busy(self, mark: Mark) -> Iterator[None]:
        """Note the time inside as that of a row."""
        self.doing.begins(self.number, mark.action)
        begin = time.perf_counter()
        yield
        self.note(mark, begin, time.perf_counter())

    def note(self, mark: Mark, begin: float, end: float) -> None:
        """When a row of the present step began and ended, by `perf_counter`."""
        number, noted = self._numbers[mark], self.node.noted
        noted.busy[number] = noted.busy.get(number, 0.0) + end - begin
        self.doing.ends(self.number)
        if self._step in self._recorded:
            later = time.time() - time.perf_counter()
            noted.recording.rows.append((noted.recording.sitting, self._step, number, begin + later, end + later))


class Loss:
    """A microbatch's mean loss times its share of the minibatch, from padded scores and labels; it is recorded."""

    def __init__(self, node: StreamNode, block: int, smoothing: float) -> None:
        self._node, self._block, self._smoothing = node, block, smoothing
        self.total = 1
        """Examples of the whole minibatch."""
        self.factor = 1.0

    def __call__(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Labels below 0 are no examples."""
        count = int((labels.flatten(1)[:, 0] >= 0).sum()) if labels.ndim > 1 else int((labels >= 0).sum())
        if not count:
            return 0 * scores.sum()
        labels = labels[:count]
        with torch.enable_grad():
            loss, right = judged(scores[:count], labels, self._smoothing)
        self._node.record(self._block, loss.detach(), right, labels)
        return loss * (self.factor * count / self.total)
