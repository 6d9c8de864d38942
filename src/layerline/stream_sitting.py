"""A stream over nodes in one process, from the newest snapshot to the result; `stream_member` is about several."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from layerline.data.text_set import TextSet
from layerline.errors import Stopped
from layerline.events import EpochDone, Event, Listener, NodeStanding, Saved, Started, StreamStarts
from layerline.events import Noted as Said
from layerline.planned import Outcome
from layerline.reporting.gantt_run import MISSING
from layerline.reporting.run_folder import RunFolder
from layerline.results import bits_of, values_of
from layerline.runtime.accounts import account
from layerline.runtime.checkpoint import Progress, misfit
from layerline.runtime.execute import refuse_divergence
from layerline.runtime.judging import readouts_of
from layerline.runtime.members import LONGEST_SECONDS
from layerline.runtime.saved import save_model
from layerline.runtime.stop import Stop
from layerline.runtime.stream.doing import Doing
from layerline.runtime.stream.feed import Feed
from layerline.runtime.stream.node import Noted, StreamNode, in_order
from layerline.runtime.stream.snapshots import newest
from layerline.runtime.stream.worker import GO_ON, SAVE, Link, StreamWorker
from layerline.schedules.stream import Stream
from layerline.schedules.timing import Async
from layerline.stream_job import BaseStreamJob
from layerline.transport.base import Transport
from layerline.transport.in_process import InProcess


class Worker(Protocol):
    """Carries out what the nodes of this process have to do."""

    doing: Doing

    def work(self) -> Generator[Event]:
        """To the end."""


class LinkedWorker(Worker, Protocol):
    """One whose messages say how fast a link is."""

    link: Link


class Alone:
    """All nodes in this process."""

    world = 1

    def __init__(self, job: BaseStreamJob, folder: RunFolder | None, heard: Listener, stop: Stop) -> None:
        self.job, self.folder, self.heard, self.stop = job, folder, heard, stop
        self.snapshots = job.snapshots(folder) if folder else None
        self.feed = Feed(job.model, job.data)
        owned = job.stream.owned
        self.nodes = {node: self._node(owned[node]) for node in self._mine()}
        self.latest = dict.fromkeys(self.nodes, 0)
        self._saved_at = time.monotonic()
        self.start = 0

    def carry_out(self) -> Outcome:
        """From the newest snapshot to the result."""
        self._restore()
        with self._transport() as transport:
            self._begin()
            link = self._train(transport)
            noted = self._bring_home(transport)
        return self._finish(noted, link)

    # What nodes do otherwise that run freely --------------------------------------------------------------------

    delay = 0.0
    """Of every link, seconds."""

    def _node(self, blocks: Sequence[int]) -> StreamNode:
        return StreamNode(blocks, self.job.model, self.feed)

    def _worker(self, transport: Transport) -> LinkedWorker:
        assert isinstance(self.job.stream, Stream)
        return StreamWorker(
            self.job.stream,
            self.nodes,
            self.feed,
            transport,
            start=self.start,
            decide=self._decide,
            save=self._save,
            stop=self.stop,
        )

    def _more(self, noted: Sequence[Noted], link: Link) -> dict[str, Any]:
        """What `result.json` says of such a run."""
        crossed = sorted((block, facts) for each in noted for block, facts in each.crossed.items())
        coded = {"boundaries": [{"block": block + 1} | facts for block, facts in crossed]} if crossed else {}
        return self.job.predicted(noted, self.world, self.feed.steps, link) | coded

    def _done(self) -> tuple[int, int]:
        """Steps before this sitting, and of the whole run."""
        return self.start, self.feed.steps

    def _steps_of(self, blocks: Sequence[int]) -> int:
        """Steps that a node of these blocks does, in the whole run."""
        return self.feed.steps

    def _progress(self) -> str:
        """How far the nodes here have saved themselves."""
        return f"after {min(self.latest.values()):,} of {self.feed.steps:,} minibatches"

    # What several processes do otherwise -------------------------------------------------------------------------

    def _mine(self) -> Sequence[int]:
        return range(self.job.stream.nodes)

    def _common(self) -> int:
        """The newest snapshot that all nodes have."""
        if not self.snapshots:
            return 0
        return newest([self.snapshots.steps(node) for node in self.nodes], max(map(self.snapshots.whole, self.nodes)))

    def _saved(self, node: int) -> int:
        """The latest snapshot of a node, and of nodes elsewhere, as far as it is known."""
        return self.latest[node]

    def _transport(self) -> Transport:
        count, codec = self.job.stream.nodes, self.job.run.codec
        return InProcess(count, codec=codec, timeout=LONGEST_SECONDS, delay=self.delay)

    def _known(self) -> list[Noted]:
        """What the nodes had noted before this sitting."""
        return [node.noted for node in self.nodes.values()]

    def _hear(self, event: Event) -> None:
        self.heard(event)

    def _shown(self, doing: Doing) -> AbstractContextManager[None]:
        """While they train: who wants to can look at what the nodes are doing."""
        self._set_out(doing.look)
        return nullcontext()

    def _bring_home(self, transport: Transport) -> list[Noted]:
        """The finished blocks into the model; what all nodes noted."""
        return self._known()

    # What all do -------------------------------------------------------------------------------------------------

    def _restore(self) -> None:
        self.start = self._common()
        for number, node in self.nodes.items():
            if not self.snapshots:
                return
            if self.start:
                tensors, node.noted = self.snapshots.load(number, self.start, node.device)
                node.noted.recording.sitting += 1
                try:
                    node.load(tensors)
                except (KeyError, RuntimeError) as error:
                    raise misfit(error) from None
            self.snapshots.keep_only(number, self.start)
            self.latest[number] = self.start

    def _begin(self) -> None:
        run, (done, total) = self.job.run, self._done()
        where, rows = str(self.folder.path) if self.folder else "", in_order(self._known())
        self.heard(Started(run.preset, where, done, total, run.epochs, rows))

    def _train(self, transport: Transport) -> Link:
        self.job.model.train()
        worker = self._worker(transport)
        self._follow(worker)
        return worker.link

    def _set_out(self, look: Callable[[], Mapping[int, NodeStanding]]) -> None:
        owned = self.job.stream.owned
        steps, free = [self._steps_of(blocks) for blocks in owned], isinstance(self.job.run.timing, Async)
        self.heard(StreamStarts(owned, steps, free, self.world < len(owned), look))

    def _follow(self, worker: Worker) -> None:
        """What the worker does, to the end. Stopped, or LayerlineError where a loss is no number any more."""
        try:
            with self._shown(worker.doing):
                for event in worker.work():
                    self._hear(event)
                    if isinstance(event, EpochDone):
                        refuse_divergence(event.rows, self.job.run.optimizer.lr)
        except Stopped as stopped:
            raise self._told(stopped) from None

    def _decide(self) -> int:
        """The first node: what to do after the step that begins."""
        if self.stop.exit_status is not None:
            return self.stop.exit_status
        due = time.monotonic() - self._saved_at >= self.job.run.checkpoint_seconds
        return SAVE if due and self.snapshots else GO_ON

    def _save(self, number: int, step: int) -> None:
        """Keep a node's state; forget those that nobody will go on from any more."""
        if not self.snapshots:
            return
        node = self.nodes[number]
        whole = min(self._saved(each) for each in range(self.job.stream.nodes))
        path = self.snapshots.save(number, step, node.tensors(), node.noted, whole)
        self.latest[number] = step
        if number == 0:
            self._saved_at = time.monotonic()
            self.heard(Saved(str(path)))
        all_have = min(self._saved(each) for each in range(self.job.stream.nodes))
        for mine in self.nodes:
            self.snapshots.drop(mine, [old for old in self.snapshots.steps(mine) if old < all_have])

    def _tidy(self) -> None:
        """When all nodes are done: nothing but the last snapshot is needed."""
        for mine in self.nodes:
            if self.snapshots:
                self.snapshots.keep_only(mine, self.latest[mine])

    def _told(self, stopped: Stopped) -> Stopped:
        if not self.folder:
            return Stopped("training was stopped; nothing was saved", exit_status=stopped.exit_status)
        return Stopped(
            f"training was stopped and saved {self._progress()}",
            exit_status=stopped.exit_status,
            hint=f"go on with: layerline resume {self.folder.path}",
        )

    def _heed(self) -> None:
        if self.stop.exit_status is not None:
            what = "training is finished; its evaluation was stopped"
            hint = f"go on with: layerline resume {self.folder.path}" if self.folder else None
            raise Stopped(what, exit_status=self.stop.exit_status, hint=hint)

    def _finish(self, noted: Sequence[Noted], link: Link) -> Outcome:
        job, folder, rows = self.job, self.folder, in_order(noted)
        job.model.share()
        progress = Progress(max(each.seconds for each in noted), rows)
        more = measured(noted, self.world) | self._more(noted, link)
        more |= bits_of(job.model, job.data, self._heed)
        held_out = True if isinstance(job.data, TextSet) else None
        readouts = readouts_of(job.model, job.data, self._heed) if job.data.test else {}
        values = values_of(job.model, job.data.name, readouts, progress, folder, held_out=held_out, **more)
        if folder:
            if not job.draw(folder, noted, self.world, self.feed.steps, link):
                self.heard(Said(MISSING))
            save_model(job.model, folder.model)
            folder.write_result(values, rows)
        return job.model, values, rows


def measured(noted: Sequence[Noted], processes: int) -> dict[str, Any]:
    """For `result.json`."""
    busy = [sum(each.busy.values()) for each in noted]
    return account(max(each.seconds for each in noted), busy, sum(each.bytes for each in noted), processes)
