"""A worker of a stream whose blocks run freely: its nodes step when they can, and wait for nobody.

Of each node, in turn:

1. A slowed step that has taken its time (several times what it computed for) is finished, and its outputs leave.
2. What landed meanwhile goes into the buffer.
3. One of its blocks takes what its buffer gives, and computes. Where there is nothing to take, the node idles. A step
   that is not slowed is finished at once: what the other nodes of the process do next is not its time.

**Snapshots.** The first node decides when to save. It saves itself and sends a mark after what it has sent; a node that
comes to a mark saves itself before it looks at what was sent later, and passes the mark on. So no part of a snapshot
holds anything that is not yet made in another (Chandy and Lamport 1985), though no two nodes are at the same step:

    node 1   s5 s6 ■ s7 s8           ■ saves: whatever node 2 has in its part was sent before it
    node 2      s3   s4 ■ s5

After a kill all go back to the newest snapshot that all have. Then all events that count come from weights that are
there, and the order of the whole run can be done again.

**The end.** A node tells the one below when it and all above it have learned from the last minibatch of the data. When
the first node hears of it, it makes the last snapshot; a stop is a snapshot, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Event as Flag

import torch

from layerline.errors import LayerlineError, PeerLost, Stopped
from layerline.events import EpochDone, Event, Minibatch
from layerline.runtime.stop import Stop
from layerline.runtime.stream.doing import Doing
from layerline.runtime.stream.free_node import FreeNode, FreeStep
from layerline.runtime.stream.free_recording import FreeRecording
from layerline.runtime.stream.landing import Landing
from layerline.runtime.stream.wire import packed_parcel
from layerline.runtime.stream.worker import GO_ON, SAVE, Link
from layerline.schedules.plan import Action
from layerline.transport.base import Transport
from layerline.transport.message import Key

DONE = 2
"""A mark: all blocks are done. Any larger one is the exit status to stop with."""
PARCEL, MARK, ENOUGH = "parcel", "mark", "enough"
_LOOK_SECONDS = 0.05
"""Between two looks whether somebody is lost, or this process was asked to stop, where nothing arrives."""
_PATIENCE = 20.0
"""Seconds for which a worker that was asked to stop waits for a mark, link delays apart: the first node sends it after
its step, which may be slowed down, and takes as long as it takes there. Launchers wait 30 s before they kill."""


@dataclass
class _Running:
    """A step that has been computed, and takes time until `until` (monotonic)."""

    step: FreeStep
    began: float
    until: float


class FreeWorker:
    """`nodes`: this process's logical nodes by number, of `count`; `snapshot`: number of the one they go on from.

    `buffer`: M; `factors`: how many times as long as it would a step of each block takes; `delay`: of a link, seconds.
    """

    def __init__(
        self,
        nodes: Mapping[int, FreeNode],
        count: int,
        transport: Transport,
        *,
        snapshot: int,
        buffer: int,
        factors: Sequence[float],
        delay: float,
        decide: Callable[[], int],
        save: Callable[[int, int], None],
        stop: Stop,
    ) -> None:
        self.nodes, self.transport = nodes, transport
        self.link = Link()
        self.doing = Doing(nodes, lambda number: nodes[number].reached)
        self._snapshot, self._factors, self._patience = snapshot, factors, _PATIENCE + count * delay
        self._decide, self._save, self._stop = decide, save, stop
        self._last = count - 1
        self._left = set(nodes)
        self._exit: int | None = None
        self._running: dict[int, _Running] = {}
        self._turn = {number: node.blocks[0] for number, node in nodes.items()}
        self._above = {number: number < self._last for number in nodes}
        self._told: set[int] = set()
        self._asked: float | None = None
        self._began = self._heard = time.monotonic()
        self._before = {number: node.noted.seconds for number, node in nodes.items()}
        self._news = Flag()
        self._landings = {number: self._landing(number, buffer) for number in nodes}

    def work(self) -> Generator[Event]:
        """To the last snapshot. Yields for every minibatch of the data that a block comes past; `EpochDone` where it
        ends an epoch.

        Stopped, after saving, when the first node was asked to. PeerLost.
        """
        while self._left:
            self._news.clear()
            idle = True
            for number in sorted(self._left):
                running = self._running.get(number)
                if running and time.monotonic() < running.until:
                    continue
                if running:  # 1
                    idle = False
                    yield from self._finish(number, running)
                lost = self._lost(number)
                self._look(number)  # 2
                if number in self._left:
                    if lost:
                        raise lost
                    if self._begin(number):  # 3
                        idle = False
                        begun = self._running[number]
                        if time.monotonic() >= begun.until:
                            yield from self._finish(number, begun)
            self._heed()
            if not idle:
                self._heard = time.monotonic()  # silence counts from when a node has nothing to do
            elif self._left:
                self._wait()
        if self._exit is not None:
            raise Stopped("training was stopped", exit_status=self._exit)

    # A step ------------------------------------------------------------------------------------------------------

    def _begin(self, number: int) -> bool:
        """The first of the node's blocks, in turns, that has something to take."""
        node, blocks = self.nodes[number], self.nodes[number].blocks
        for each in range(len(blocks)):
            block = blocks[(self._turn[number] - blocks[0] + each) % len(blocks)]
            if node.has_done(block):
                continue
            self.doing.begins(number, Action.TRAIN, block)
            began = time.monotonic()
            step = node.work(block)
            if step is not None:
                spent = time.monotonic() - began
                self._running[number] = _Running(step, began, began + spent * self._factors[block])
                self._turn[number] = block + 1
                return True
        if number and not node.done:
            self.doing.waits(number, number - 1)
        else:
            self.doing.ends(number)
        return False

    def _finish(self, number: int, running: _Running) -> Generator[Event]:
        node, step = self.nodes[number], running.step
        del self._running[number]
        parcel = node.finish(step)
        busy = node.noted.busy
        seconds = running.until - running.began
        busy[step.block] = busy.get(step.block, 0.0) + seconds
        self.doing.ends(number)
        FreeRecording(node.noted.recording).add(step.block, step.number, step.begin, step.begin + seconds)
        if parcel is not None:
            key = Key(step.number, PARCEL, step.block, step.number)
            self.transport.at(number).send(key, packed_parcel(parcel), number + 1, passing="codes" not in parcel)
        advance, epoch = step.advance, node.epoch(step.block)
        if step.row is not None:
            self._note(number)  # also where nothing is ever saved: what is noted need not be kept
            yield EpochDone(step.row.epoch, [step.row])
            advance -= 1
        for _ in range(advance):
            yield Minibatch(epoch, f"block {step.block + 1}")

    # Between two steps of a node ---------------------------------------------------------------------------------

    def _look(self, number: int) -> None:
        """Take in what landed; save where there is a mark, and leave after a last one."""
        mark: tuple[int, int] | None = None
        if number == 0:
            what = DONE if self._all_done(0) else self._decide()
            if what != GO_ON:
                self._keep(0, self._snapshot + 1, what)
            return
        while number in self._left:
            arrivals, mark = self._landings[number].take()
            for step, parcel in arrivals:
                self.nodes[number].put(self.nodes[number].blocks[0], step, parcel)
            if mark is None:
                break
            self._keep(number, *mark)
        if number in self._left and number not in self._told and self._all_done(number):
            self._told.add(number)
            with suppress(PeerLost):  # it was stopped, and a mark that says so is on its way; else `_lost` knows
                self.transport.at(number).send(Key(0, ENOUGH, 0, 0), {}, number - 1)

    def _all_done(self, number: int) -> bool:
        """Whether no block of the node, nor of one above it, still learns."""
        return self.nodes[number].done and not self._above[number]

    def _keep(self, number: int, snapshot: int, what: int) -> None:
        """The node's part of a snapshot; the node above makes its own."""
        self._note(number)
        begin = time.monotonic()
        self._save(number, snapshot)
        self._began += time.monotonic() - begin  # which is no training
        self._snapshot = max(self._snapshot, snapshot)
        if number < self._last:
            mark = {"mark": torch.tensor(what, dtype=torch.uint8)}
            self.transport.at(number).send(Key(snapshot, MARK, 0, 0), mark, number + 1)
        if what > SAVE:
            self._left.discard(number)
            self._exit = what if what > DONE else None

    def _note(self, number: int) -> None:
        """What the transport counted."""
        noted, events = self.nodes[number].noted, self.transport.at(number).events
        new = events[:]
        del events[: len(new)]  # the transport's threads may have added some
        noted.bytes += sum(event.nbytes for event in new if event.direction == "send")
        for event in new:
            if event.key.carries == PARCEL:
                FreeRecording(noted.recording).add_message(event)
        noted.seconds = self._before[number] + time.monotonic() - self._began

    # The others --------------------------------------------------------------------------------------------------

    def _landing(self, number: int, buffer: int) -> Landing:
        end, landing = self.transport.at(number), Landing(buffer, self._news.set)
        if number:
            end.hand_over(number - 1, {PARCEL: landing.put, MARK: landing.put_mark})
        if number < self._last:
            end.hand_over(number + 1, {ENOUGH: lambda key, tensors: self._hear_enough(number)})
        return landing

    def _hear_enough(self, number: int) -> None:
        self._above[number] = False
        self._news.set()

    def _lost(self, number: int) -> LayerlineError | None:
        """Why nothing more will come from a neighbour. What came before is looked at first: it may be the last mark."""
        for peer in (number - 1, number + 1):
            if 0 <= peer <= self._last:
                try:
                    self.transport.at(number).check(peer)
                except LayerlineError as error:
                    return error
        return None

    def _wait(self) -> None:
        """Until something arrives, or a slowed step has taken its time; look up now and then."""
        now = time.monotonic()
        soonest = min((running.until - now for running in self._running.values()), default=_LOOK_SECONDS)
        if self._news.wait(max(0.0, min(soonest, _LOOK_SECONDS))) or self._running:
            self._heard = time.monotonic()
        elif now - self._heard > self.transport.timeout:
            raise PeerLost(f"nothing has arrived for {self.transport.timeout:g} s")

    def _heed(self) -> None:
        """Stopped where this process was asked to, and no mark comes."""
        if self._stop.exit_status is None or 0 in self.nodes:
            return
        now = time.monotonic()
        self._asked = self._asked or now
        if now - self._asked > self._patience:
            raise Stopped("training was stopped", exit_status=self._stop.exit_status)
