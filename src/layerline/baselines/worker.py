"""The steps of one process: a method's minibatch, the update, and what the first node says of saving and stopping.

The first node's mark for a step is on its way to all while they compute; after the update all act on it. So all save
after the same step.
"""

from __future__ import annotations

import time
from collections.abc import Generator

import torch
from torch import distributed as dist

from layerline.baselines.step import MethodStep
from layerline.errors import Stopped
from layerline.events import EpochDone, Event, Minibatch, Row
from layerline.runtime.stop import Stop
from layerline.runtime.stream.patience import Patience
from layerline.runtime.stream.worker import GO_ON, SAVE, Decide, Save


class MethodWorker:
    """One node, from step `start` on. `decide` is asked on the first node only."""

    def __init__(self, method: MethodStep, *, start: int, decide: Decide, save: Save, stop: Stop) -> None:
        self.method, self.number, self.start, self.doing = method, method.number, start, method.doing
        self._decide, self._save = decide, save
        method.done = start
        self._patience = Patience(stop, lead=min(self.number, 1))  # the first has begun the next step, at most

    def work(self) -> Generator[Event]:
        """To the end. Yields after every step; the last of an epoch yields `EpochDone` with the rows of this node.

        Stopped, after saving, when the first node was asked to; RuntimeError from gloo where a peer is lost.
        """
        feed, noted = self.method.feed, self.method.node.noted
        began, before = time.monotonic() - noted.seconds, noted.bytes
        for step in range(self.start, feed.steps):
            mark = self._learn(step)
            rows = self._ended(step) if feed.ends_epoch(step) else None
            noted.seconds, noted.bytes = time.monotonic() - began, before + self.method.sent
            if mark != GO_ON or step + 1 == feed.steps:
                self._save(self.number, step + 1)
                began = time.monotonic() - noted.seconds  # saving is no training
            epoch = feed.place(step)[0] + 1
            yield Minibatch(epoch, "all blocks") if rows is None else EpochDone(epoch, rows)
            if mark > SAVE:
                raise Stopped("training was stopped", exit_status=mark)
            self._patience.heed()

    def _learn(self, step: int) -> int:
        """A minibatch and its update. The first node's mark."""
        mark = torch.tensor([0 if self.number else self._decide()], dtype=torch.uint8)
        under_way = dist.broadcast(mark, 0, async_op=True)
        self.method.learn(step)
        self.method.update(step)
        assert under_way is not None
        under_way.wait()
        return int(mark.item())

    def _ended(self, step: int) -> list[Row]:
        """The numbers of an epoch, where this node tells of them."""
        node = self.method.node
        tells, before = self.method.gather(), len(node.noted.rows)
        rows = node.end_epoch(step)
        if not tells:
            del node.noted.rows[before:]
        return rows if tells else []
