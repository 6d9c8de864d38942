"""One process's part of a run over several.

1 compare      all have the same run, plan, data and versions, and reach each other
2 look back    how far each node is on disk, how often the run was started, what a slot costs
3 work         the rows of the nodes here, while messages come and go
4 put together rank 0 gets the finished blocks and everybody's notes; the others are done
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import nn

from layerline.data.dataset import Dataset
from layerline.data.own import OwnData
from layerline.errors import Elsewhere
from layerline.events import Event, Listener, PlanStarts, RowKept, Started
from layerline.run import Run
from layerline.runtime.forecast import Forecast
from layerline.runtime.judging import Judged, judge_own
from layerline.runtime.members import LONGEST_SECONDS, Board, Membership, join_seconds, placement, silence_seconds
from layerline.runtime.model import Model
from layerline.runtime.pipeline import Measured, Others, Pipeline
from layerline.runtime.post import Post, links
from layerline.runtime.standing import Standings, looking, standing_of
from layerline.runtime.stop import Stop
from layerline.schedules.costs import Costs
from layerline.schedules.plan import Action, Plan
from layerline.transport.process_group import ProcessGroup
from layerline.transport.rendezvous import Facts, check_peers


@dataclass(frozen=True)
class Trained:
    """A run that is trained, and not evaluated yet."""

    pipeline: Pipeline
    model: Model
    measured: Measured
    forecast: Forecast
    judged: Judged
    """Of nodes with data of their own, what each found on its held-out examples; else empty."""


@dataclass(frozen=True)
class Together:
    """The part of process `member`; `folder`: the run's, as this process sees it."""

    run: Run
    plan: Plan
    data: Dataset | OwnData
    blocks: Sequence[nn.Module] | None
    member: Membership
    board: Board
    folder: Path

    def train(self, heard: Listener, stop: Stop) -> Trained:
        """Do it. `Elsewhere` in all processes but rank 0's, where everything comes together."""
        self._compare()
        pipeline = Pipeline(self.run, self.plan, self.data, self.folder, nodes=self._mine, blocks=self.blocks)
        before = Measured.of(pipeline.slots, self.plan.nodes)
        sitting = self._sitting(pipeline, before)
        forecast = Forecast(self.run, self.plan, self._places, self.data, pipeline.slots)
        if not sitting and forecast.worth_measuring():
            self._calibrate(forecast)
        others = self._others()
        # The others are told why before the connections end, which they notice.
        with self._transport() as transport, self.board.telling(leave=False):
            post = Post(self.plan, transport, moments=self.run.send_optimizer_state, everywhere=self._own)
            standings = Standings(pipeline, partial(self.board.post, f"standing {self.member.rank}"))
            heard(started(pipeline, before, str(self.folder)))
            if self.member.rank == 0:
                look = looking(standings, self.board.for_another_thread(), self.member.world, standing_of)
                heard(PlanStarts(self.plan, forecast.before(), look))
            hear = self._posting(pipeline, both(standings.hear, heard))
            pipeline.work(hear, stop, post, sitting=sitting, others=others)
            return self._put_together(pipeline, post, forecast, stop)

    @cached_property
    def _places(self) -> list[int]:
        return placement(self.plan, self.member.world)

    @cached_property
    def _mine(self) -> list[int]:
        return [node for node, rank in enumerate(self._places) if rank == self.member.rank]

    def _from_all(self, what: str) -> list[Any]:
        """What every rank has posted under a name."""
        ranks = range(self.member.world)
        return self.board.wait([f"{what} {rank}" for rank in ranks], [f"rank {rank}" for rank in ranks])

    def _compare(self) -> None:
        """The same error in all processes if one has something else."""
        facts = Facts.here(run=self._whose, plan=self.plan.digest(), data=self.data.digest())
        self.board.meet()
        store, generation = self.member.store(join_seconds()), self.board.generation
        check_peers(store, self.member.rank, self.member.world, facts, generation=generation, timeout=join_seconds())

    @property
    def _whose(self) -> str:
        """The run, with what all have to agree on besides: where nodes save themselves together, when."""
        return self.run.digest() + (f" {self.run.checkpoint_seconds}" if self.plan.by_batch else "")

    def _sitting(self, pipeline: Pipeline, before: Measured) -> int:
        """How often the run was started, by whoever knows of most; all know then how far the nodes are."""
        for node in self._mine:
            self.board.post(f"done {node}", len(pipeline.slots.done(node)))
        kept = {node: sorted(rows) for node, rows in pipeline.kept().items()} if self.plan.by_batch else {}
        self.board.post(f"ready {self.member.rank}", [before.sittings, kept])
        return max(sittings for sittings, _ in self._from_all("ready"))

    def _others(self) -> Others:
        """The nodes in other processes. Asked after all were heard by `_sitting`."""
        kept = {int(node): set(rows) for _, every in self._from_all("ready") for node, rows in every.items()}

        def kept_last(node: int) -> int:
            last = self.board.look(f"kept {node}")
            return -1 if last is None else last

        return Others(set if self.plan.by_batch else self._done_elsewhere(), kept, kept_last)

    def _calibrate(self, forecast: Forecast) -> None:
        """All processes measure at the same time; rank 0 notes it."""
        self.board.post(f"costs {self.member.rank}", asdict(forecast.measured()))
        if self.member.rank == 0:
            forecast.note([Costs(**costs) for costs in self._from_all("costs")])

    def _transport(self) -> ProcessGroup:
        return ProcessGroup(
            self.member.store(join_seconds()),
            self.member.rank,
            self._places,
            links(self.plan, self._places, everywhere=self._own),
            plan=self.plan.digest(),
            generation=self.board.generation,
            codec=self.run.codec,
            timeout=LONGEST_SECONDS,
            join=join_seconds(),
            silence=silence_seconds(),
            host=self.member.host,
        )

    def _done_elsewhere(self) -> Callable[[], set[int]]:
        """The rows that other processes have on disk: they are counted in the order of the plan."""
        durable: dict[int, list[int]] = {node: [] for node in range(self.plan.nodes) if node not in self._mine}
        for row, (action, node) in enumerate(zip(self.plan.action.tolist(), self.plan.node.tolist(), strict=True)):
            if action != Action.FORWARD and node in durable:
                durable[node].append(row)

        def done() -> set[int]:
            return {row for node, rows in durable.items() for row in rows[: self.board.look(f"done {node}") or 0]}

        return done

    def _posting(self, pipeline: Pipeline, heard: Listener) -> Listener:
        """The listener, and the board told how far the nodes here are."""

        def hear(event: Event) -> None:
            if isinstance(event, RowKept):
                counts[event.node] += 1
                self.board.post(f"done {event.node}", counts[event.node])
                if self.plan.by_batch:
                    self.board.post(f"kept {event.node}", event.row)
            heard(event)

        counts = {node: len(pipeline.slots.done(node)) for node in pipeline.nodes}
        return hear

    def _put_together(self, pipeline: Pipeline, post: Post, forecast: Forecast, stop: Stop) -> Trained:
        for node in self._mine:
            self.board.post_pieces(f"told {node}", pipeline.slots.told(node))
        if self._own or not self.member.rank:
            model = pipeline.model(post)
            self.board.post(f"judged {self.member.rank}", judge_here(pipeline, model, self.data, stop))
        if self.member.rank:
            # The last slot of rank 0 may take long.
            self.board.wait(["home"], ["rank 0"], timeout=LONGEST_SECONDS, heed=lambda: pipeline.heed(stop))
            pipeline.tidy()
            raise Elsewhere("this process has done its part; rank 0 has the result")
        measured = Measured(
            {node: self.board.wait_pieces(f"told {node}", f"node {node}") for node in range(self.plan.nodes)}
        )
        judged = self._judged(pipeline, stop)
        self.board.post("home", True)
        pipeline.tidy()
        return Trained(pipeline, model, measured, forecast, judged)

    @property
    def _own(self) -> bool:
        return isinstance(self.data, OwnData)

    def _judged(self, pipeline: Pipeline, stop: Stop) -> Judged:
        """What all nodes found."""
        ranks = range(self.member.world if self._own else 1)
        names, who = [f"judged {rank}" for rank in ranks], [f"rank {rank}" for rank in ranks]
        told = self.board.wait(names, who, timeout=LONGEST_SECONDS, heed=lambda: pipeline.heed(stop))
        return {int(node): (found[0], found[1]) for each in told for node, found in each.items()}


def judge_here(pipeline: Pipeline, model: Model, data: Dataset | OwnData, stop: Stop) -> Judged:
    """What the nodes here find on held-out data of their own; nothing where rank 0 has the data of all."""
    return judge_own(model, data, lambda: pipeline.heed(stop)) if isinstance(data, OwnData) else {}


def started(pipeline: Pipeline, before: Measured, where: str) -> Started:
    """The event a training over nodes begins with; `where`: its folder, or nothing."""
    return Started(pipeline.run.preset, where, *pipeline.minibatches(), pipeline.run.epochs, before.rows())


def both(first: Listener, second: Listener) -> Listener:
    """Two listeners as one."""

    def hear(event: Event) -> None:
        first(event)
        second(event)

    return hear
