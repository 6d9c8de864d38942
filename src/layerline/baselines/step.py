"""What a method computes of one minibatch, in one process: until the gradients of its node's blocks are complete."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from layerline.runtime.stream.feed import Feed
from layerline.runtime.stream.node import StreamNode
from layerline.runtime.stream.stage import judged
from layerline.schedules.stream import Mark


class MethodStep(ABC):
    """One node's share of every minibatch; gradients add up in the node's stages."""

    def __init__(self, node: StreamNode, feed: Feed, rows: Sequence[Mark]) -> None:
        self.node, self.feed = node, feed
        self._numbers = {mark: number for number, mark in enumerate(rows)}
        self.sent = 0
        """Bytes that this process has sent to others."""
        for stage in node.stages.values():
            stage.learn_by_backward()

    @abstractmethod
    def learn(self, step: int) -> None:
        """Forward and backward of a minibatch. RuntimeError where a peer is lost."""

    def gather(self) -> bool:
        """At the end of an epoch: bring the recorded losses together. Whether this node tells of them."""
        return True

    @contextmanager
    def busy(self, mark: Mark) -> Iterator[None]:
        """Note the time inside as that of a row."""
        begin = time.perf_counter()
        yield
        self.note(mark, time.perf_counter() - begin)

    def note(self, mark: Mark, seconds: float) -> None:
        """A row took so long."""
        number, busy = self._numbers[mark], self.node.noted.busy
        busy[number] = busy.get(number, 0.0) + seconds


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
