"""A participant: one node of a plan with its data, which carries out tasks as they come.

    task     do your rows up to this one; what others made for it; how far all are
    answer   what the rows made for others; what they measured

Problem: Flower starts a process for every task and ends it after the answer, and what was computed has to have the bits
of the torch runtime. Solution: the same worker on the same finished slots. They lie in the participant's own folder, so
a process that has just started goes on where the last one stopped. Where the process stays, so does the worker.

    FOLDER/slots/              as in any run over nodes: blocks with their moments, labels, notes
    FOLDER/links.safetensors   what differences start from, with a codec that sends some

Data, negatives and (unless they travel by the run's own wish) moments stay here; with a `release`, so does what the
rows measured.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from layerline.data.dataset import Dataset
from layerline.data.own import OwnData
from layerline.errors import CheckpointError, LayerlineError, UsageError
from layerline.events import EpochDone, Event, RowDone
from layerline.files import alone_in, replacing
from layerline.run import Run
from layerline.runtime.execute import refuse_divergence
from layerline.runtime.flower.adopting import adopt
from layerline.runtime.flower.mail import Mailbox, Parcel
from layerline.runtime.judging import Judged, judge_own, readouts_of
from layerline.runtime.leaving import Release
from layerline.runtime.model import Model
from layerline.runtime.pipeline import Pipeline, part_of
from layerline.runtime.post import Post
from layerline.runtime.threads import compute_threads
from layerline.runtime.worker import Worker
from layerline.schedules.lower import messages
from layerline.schedules.plan import Action, Carries, Plan
from layerline.schedules.without import without

_TURN_SECONDS = 3600.0
"""For another process to end its task."""
_SECONDS_BETWEEN = 0.2


@dataclass(frozen=True)
class Order:
    """What the server asks of a participant."""

    row: int
    """The last of the rows to do; those before it in the node's order are done, or part of the task."""
    done: tuple[int, ...]
    """How many of its rows with a lasting result every node has done, as far as the server knows."""
    heard: int
    """How many of this participant's notes the server has."""
    gone: tuple[int, ...]
    """Rows of lost nodes, which the plan goes on without."""
    parcels: tuple[Parcel, ...]
    """What others made for these rows; and for who takes a node over, what was made there before."""


@dataclass(frozen=True)
class Answer:
    """What a participant has to say."""

    facts: tuple[dict[str, Any], ...]
    """Its notes of the rows it did, as the torch runtime keeps them."""
    parcels: tuple[Parcel, ...]


class Participant:
    """Node `number` of a run's plan; its results lie in `folder`."""

    def __init__(
        self,
        run: Run,
        plan: Plan,
        data: Dataset | OwnData,
        number: int,
        folder: Path,
        release: Release | None = None,
    ) -> None:
        """`release`: what of a trained block may leave, where that is not all of it."""
        self._release = release
        self.run, self.plan, self.data, self.number, self.folder = run, plan, data, number, folder
        self._whole, self._rows = plan, lasting(plan)
        self._needed = _needed(plan, number)
        self._done = [0] * plan.nodes
        self._mail = self._mailbox()
        with compute_threads(run):
            pipeline = Pipeline(run, plan, data, folder, nodes=[number])
        self._slots = pipeline.slots
        self._slots.sweep()
        self._pipeline = pipeline
        self._worker: Worker | None = None
        self._events: Generator[Event] | None = None
        self._last = -1  # of the rows that this process did
        self._noted = 0  # when it last answered

    def carry_out(self, order: Order) -> Answer:
        """Do the rows that are not done yet; their results are on disk when this returns.

        LayerlineError where it cannot be done: what came is damaged, the disk is full, training diverged.
        """
        with self._one_draw():
            return self._carry_out(order)

    def _carry_out(self, order: Order) -> Answer:
        self._done = list(order.done)
        known = set(self._rows[self.number][: order.done[self.number]])
        if len(self._slots.told(self.number)) != self._noted:
            self.close()  # another process went on meanwhile: Flower's simulation has one for whoever comes
        if frozenset(order.gone) != self.plan.gone:
            self._go_on_without(order.gone)
        with compute_threads(self.run):
            if not known <= self._slots.done(self.number):
                self.close()
                adopt(self._slots, self.plan, self._pipeline.nodes[self.number], known, order.parcels)
            worker, events = self._begin()
            # A task may come twice, if its answer was lost: what its rows took is in their results by then.
            if order.row in worker.todo and order.row > self._last:
                for parcel in order.parcels:
                    if self._wants(worker, parcel):
                        self._mail.deliver(parcel)
                try:
                    self._go_on(events, order.row)
                    worker.settle()
                except BaseException:
                    self.close()  # should it be asked again, it begins from what is on disk
                    raise
                self._last = order.row
                self._write_links()
        notes = self._slots.told(self.number)
        self._noted = len(notes)
        facts = [fact | {"metrics": []} for fact in notes] if self._release else notes  # exact numbers of the data
        return Answer(tuple(facts[order.heard :]), tuple(self._mail.take(known)))

    def judge(self, gone: Sequence[int], finished: Sequence[Parcel]) -> Judged:
        """How right the finished blocks are on the examples here; of data of its own, on those held out, if any are.

        Where not all may leave, nothing is said of examples that were trained on.
        """
        with compute_threads(self.run):
            plan = without(self._whole, gone) if gone else self._whole
            model = finished_model(self._pipeline, plan, finished)
            if isinstance(self.data, OwnData):
                return judge_own(model, self.data)
            own = part_of(self.run, self.plan, self.data, self.number)
            if self._release:
                return {self.number: (len(own.train), {})}
            return {self.number: (len(own.train), readouts_of(model, replace(own, test=own.train)))}

    @contextmanager
    def _one_draw(self) -> Iterator[None]:
        """Where noise is drawn, one process at a time: two that did the same slot would give two draws of it."""
        until = time.monotonic() + _TURN_SECONDS
        with ExitStack() as stack:
            while self._release:
                try:
                    stack.enter_context(alone_in(self.folder))
                    break
                except UsageError:
                    if time.monotonic() > until:
                        raise LayerlineError(f"another process still trains in {self.folder}") from None
                    time.sleep(_SECONDS_BETWEEN)
            yield

    def close(self) -> None:
        """Done with it for now; whatever comes next begins from what is on disk."""
        if self._events is not None:
            self._events.close()
        self._worker, self._events, self._last = None, None, -1
        self._mail = self._mailbox()

    def _go_on_without(self, gone: Sequence[int]) -> None:
        self.close()
        self.plan = without(self._whole, gone)
        self._needed = _needed(self.plan, self.number)

    def _wants(self, worker: Worker, parcel: Parcel) -> bool:
        """Whether a row that is still to do takes it: one that is given out again may begin with rows done."""
        frame = parcel.frame(self.plan, "the server")
        needed = self._needed.get((frame.key.row, frame.key.carries), -1)
        return needed > self._last and needed in worker.todo

    def _begin(self) -> tuple[Worker, Generator[Event]]:
        """The worker where it stopped; at first, and after a restart, from what is on disk."""
        if self._worker is None or self._events is None:
            post = Post(self.plan, self._mail, moments=self.run.send_optimizer_state)
            nodes, slots = self._pipeline.nodes, self._slots
            shares = self._pipeline.shares
            self._worker = Worker(
                self.plan,
                nodes,
                slots,
                post,
                done_elsewhere=self._elsewhere,
                shares=shares,
                release=self._release,
            )
            self._events = self._worker.work()
            next(self._events, None)  # what was done before is brought back and sent again; no row has begun
        return self._worker, self._events

    def _go_on(self, events: Generator[Event], last: int) -> None:
        for event in events:
            if isinstance(event, EpochDone):
                refuse_divergence(event.rows, self.run.optimizer.lr)
            if isinstance(event, RowDone) and event.row == last:
                return
        raise AssertionError(f"{self.plan.name(last)} was not among the rows to do")

    def _elsewhere(self) -> set[int]:
        """The rows with a lasting result of all other nodes."""
        others = (node for node in range(self.plan.nodes) if node != self.number)
        return {row for node in others for row in self._rows[node][: self._done[node]]} | self.plan.gone

    def _mailbox(self) -> Mailbox:
        mail = Mailbox(self.plan, self.number, self.run.codec)
        mail.remember(self._read_links())
        return mail

    @property
    def _links(self) -> Path:
        return self.folder / "links.safetensors"

    def _write_links(self) -> None:
        references = self._mail.references()
        if references:
            with replacing(self._links) as beside:
                save_file({name: tensor.contiguous() for name, tensor in references.items()}, beside)

    def _read_links(self) -> dict[str, Any]:
        if not self._links.exists():
            return {}
        try:
            return load_file(self._links)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{self._links} cannot be read: {error}", hint="start a new run") from None


def finished_model(pipeline: Pipeline, plan: Plan, finished: Sequence[Parcel]) -> Model:
    """The model of the finished blocks that came to the server. `plan`: with what is gone of the pipeline's."""
    run = pipeline.run
    mail = Mailbox(plan, plan.nodes, run.codec)
    for parcel in finished:
        mail.deliver(parcel)
    post = Post(plan, mail, moments=run.send_optimizer_state)
    return Pipeline(run, plan, pipeline.data, pipeline.slots.folder.parent, nodes=()).model(post)


def _needed(plan: Plan, node: int) -> dict[tuple[int, str], int]:
    """Of every message to a node, what it is and the first row that takes it."""
    sent = messages(plan)
    names = (Carries(carries).name.lower() for carries in sent.carries.tolist())
    every = zip(sent.source.tolist(), names, sent.receiver.tolist(), sent.needed.tolist(), strict=True)
    return {(row, what): needed for row, what, to, needed in every if to == node}


def lasting(plan: Plan) -> list[list[int]]:
    """The rows of every node that leave a result on disk, in its order."""
    found: list[list[int]] = [[] for _ in range(plan.nodes)]
    for row, (action, node) in enumerate(zip(plan.action.tolist(), plan.node.tolist(), strict=True)):
        if action != Action.FORWARD:
            found[node].append(row)
    return found
