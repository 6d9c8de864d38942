"""A run over logical nodes, from its plan to its result.

    alone      one process carries out all nodes
    member     this process carries out some nodes; rank 0 puts the result together
    launcher   this process starts the members, and reads what rank 0 left

What can be wrong with it is found before a folder is made: nodes that the schedule cannot use, too little data.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from layerline.blocks.network import Mlp
from layerline.data.dataset import Dataset
from layerline.errors import Elsewhere
from layerline.events import Event, Listener, Noted, PlanStarts, Row, RowKept, Started
from layerline.reporting.gantt_run import MISSING, can_draw, draw_run
from layerline.reporting.run_folder import RunFolder
from layerline.reporting.trace import write_trace
from layerline.results import values_of
from layerline.run import Run
from layerline.runtime.checkpoint import Progress
from layerline.runtime.forecast import Forecast
from layerline.runtime.members import Board, Membership, placement
from layerline.runtime.model import Model
from layerline.runtime.pipeline import Measured, Pipeline
from layerline.runtime.planning import planned, refuse_unused_nodes, sizes_of
from layerline.runtime.post import Post, links
from layerline.runtime.saved import AnyModel, save_model
from layerline.runtime.standing import Standings, looking
from layerline.runtime.stop import Stop
from layerline.runtime.threads import compute_threads
from layerline.schedules.costs import Costs
from layerline.schedules.plan import Action, Plan
from layerline.transport.process_group import ProcessGroup
from layerline.transport.rendezvous import Facts, check_peers

JOIN_SECONDS = 120.0
"""For all processes to come, and to say what they have; `LAYERLINE_JOIN` sets it."""
SILENCE_SECONDS = 60.0
"""After which a process that says nothing is lost; `LAYERLINE_SILENCE` of the launcher sets it for its workers."""
LONGEST_SECONDS = 7 * 24 * 3600.0
"""For one message: as long as the nodes before take. That they are alive is known by `SILENCE_SECONDS`."""

_PIECE = 500  # notes in one value of the store

Outcome = tuple[AnyModel, dict[str, Any], list[Row]]


@dataclass(frozen=True)
class PlanJob:
    """A run with its plan and everything else it needs."""

    run: Run
    plan: Plan
    data: Dataset
    blocks: Sequence[nn.Module] | None

    def carry_out(self, folder: RunFolder | None, listener: Listener, stop: Stop, tensorboard: bool) -> Outcome:
        """Train from the finished slots in the folder to the end; leave everything in the folder.

        `Elsewhere` in a process whose part is done, where another has the result.
        """
        member = Membership.of_environment()
        hears = folder.listening(listener, tensorboard=tensorboard) if folder else nullcontext(listener)
        if member and folder:
            board = Board(member, join_seconds())
            with board.telling(), ExitStack() as stack:
                if member.rank == 0:
                    stack.enter_context(folder.alone())
                heard = stack.enter_context(hears) if member.rank == 0 else _mute
                outcome = self._as_member(member, board, folder, heard, stop)
            board.leave()
            return outcome
        with _place(folder) as path, folder.alone() if folder else nullcontext():
            pipeline = Pipeline(self.run, self.plan, self.data, path, blocks=self.blocks, stays=folder is not None)
            with compute_threads(self.run), hears as heard:
                before = Measured.of(pipeline.slots, self.plan.nodes)
                forecast = self._forecast(pipeline, [0] * self.plan.nodes)
                if not before.sittings and forecast.worth_measuring():
                    forecast.note([forecast.measured()])
                standings = Standings(pipeline)
                heard(self._started(pipeline, before, folder))
                heard(PlanStarts(self.plan, forecast.before(), standings.look))
                pipeline.work(_both(standings.hear, heard), stop, pipeline.here(), sitting=before.sittings)
                measured = Measured.of(pipeline.slots, self.plan.nodes)
                return self._finish(pipeline, pipeline.model(), measured, folder, heard, stop, forecast)

    def _as_member(self, member: Membership, board: Board, folder: RunFolder, heard: Listener, stop: Stop) -> Outcome:
        """One process's part."""
        store, places = member.store(join_seconds()), placement(self.plan, member.world)
        mine = [node for node, rank in enumerate(places) if rank == member.rank]
        who = [f"rank {rank}" for rank in range(member.world)]
        with compute_threads(self.run):
            facts = Facts.here(run=self.run.digest(), plan=self.plan.digest(), data=self.data.digest())
            board.meet()
            check_peers(store, member.rank, member.world, facts, generation=member.generation, timeout=join_seconds())
            pipeline = Pipeline(self.run, self.plan, self.data, folder.path, nodes=mine, blocks=self.blocks)
            before = Measured.of(pipeline.slots, self.plan.nodes)
            durable = _durable(self.plan)
            for node in mine:
                board.post(f"done {node}", len(pipeline.slots.done(node)))
            board.post(f"ready {member.rank}", before.sittings)
            sitting = max(board.wait([f"ready {rank}" for rank in range(member.world)], who))
            forecast = self._forecast(pipeline, places)
            if not sitting and forecast.worth_measuring():
                board.post(f"costs {member.rank}", asdict(forecast.measured()))
                if member.rank == 0:
                    found = board.wait([f"costs {rank}" for rank in range(member.world)], who)
                    forecast.note([Costs(**costs) for costs in found])
            others = [node for node in range(self.plan.nodes) if node not in mine]

            def done_elsewhere() -> set[int]:
                return {row for node in others for row in durable[node][: board.look(f"done {node}") or 0]}

            transport = ProcessGroup(
                store,
                member.rank,
                places,
                links(self.plan, places),
                plan=self.plan.digest(),
                generation=member.generation,
                codec=self.run.codec,
                timeout=LONGEST_SECONDS,
                join=join_seconds(),
                silence=float(os.environ.get("LAYERLINE_SILENCE", SILENCE_SECONDS)),
                host=member.host,
            )
            with transport, board.telling(leave=False):  # told before the connections end, which others notice
                post = Post(self.plan, transport, moments=self.run.send_optimizer_state)
                standings = Standings(pipeline, partial(board.post, f"standing {member.rank}"))
                heard(self._started(pipeline, before, folder))
                if member.rank == 0:
                    look = looking(standings, board.for_another_thread(), member.world)
                    heard(PlanStarts(self.plan, forecast.before(), look))
                hear = _posting(_both(standings.hear, heard), board, pipeline)
                pipeline.work(hear, stop, post, sitting=sitting, done_elsewhere=done_elsewhere)
                for node in mine:
                    tell(board, node, pipeline.slots.told(node))
                if member.rank:
                    board.wait(["home"], ["rank 0"], timeout=LONGEST_SECONDS)  # its last slot may take long
                    pipeline.tidy()
                    raise Elsewhere("this process has done its part; rank 0 has the result")
                model = pipeline.model(post)
                measured = Measured({node: told(board, node) for node in range(self.plan.nodes)})
                board.post("home", True)
                pipeline.tidy()
            return self._finish(pipeline, model, measured, folder, heard, stop, forecast)

    def _started(self, pipeline: Pipeline, before: Measured, folder: RunFolder | None) -> Started:
        where = str(folder.path) if folder else ""
        return Started(self.run.preset, where, *pipeline.minibatches(), self.run.epochs, before.rows())

    def _forecast(self, pipeline: Pipeline, places: Sequence[int]) -> Forecast:
        return Forecast(self.run, self.plan, places, self.data, pipeline.slots)

    def _finish(
        self,
        pipeline: Pipeline,
        model: Model,
        measured: Measured,
        folder: RunFolder | None,
        heard: Listener,
        stop: Stop,
        forecast: Forecast,
    ) -> Outcome:
        processes = max(forecast.places) + 1
        predicted, source = forecast.after(measured.facts)
        progress, more = Progress(measured.seconds, measured.rows()), measured.values(processes)
        more |= {"predicted_seconds": round(predicted.makespan, 3), "predicted_from": source}
        values = values_of(model, self.data, progress, folder, lambda: pipeline.heed(stop), **more)
        if folder:
            title = f"{self.run.preset} · {self.plan.schedule}"
            write_trace(folder.path / "trace.json", self.plan, measured.facts, title)
            if can_draw():
                draw_run(self.plan, measured.facts, predicted, folder.path / "gantt.svg", title)
            else:
                heard(Noted(MISSING))
            save_model(model, folder.model)
            folder.write_result(values, progress.rows)
        return model, values, progress.rows


def _both(first: Listener, second: Listener) -> Listener:
    def hear(event: Event) -> None:
        first(event)
        second(event)

    return hear


def join_seconds() -> float:
    """As `JOIN_SECONDS`, or as somebody set it."""
    return float(os.environ.get("LAYERLINE_JOIN", JOIN_SECONDS))


def _mute(event: Event) -> None:
    """Rank 0 speaks for all."""


def _posting(heard: Listener, board: Board, pipeline: Pipeline) -> Listener:
    """The listener, and the board told how far the nodes here are."""

    def hear(event: Event) -> None:
        if isinstance(event, RowKept):
            counts[event.node] += 1
            board.post(f"done {event.node}", counts[event.node])
        heard(event)

    counts = {node: len(pipeline.slots.done(node)) for node in pipeline.nodes}
    return hear


def tell(board: Board, node: int, facts: list[dict[str, Any]], what: str = "told") -> None:
    """All that a node noted, in pieces: a store refuses values of several megabytes."""
    pieces = [facts[at : at + _PIECE] for at in range(0, len(facts), _PIECE)]
    for number, piece in enumerate(pieces):
        board.post(f"{what} {node} {number}", piece)
    board.post(f"{what} {node}", len(pieces))


def told(board: Board, node: int, what: str = "told") -> list[dict[str, Any]]:
    """All that a node noted, once it has told it."""
    who = [f"node {node}"]
    (pieces,) = board.wait([f"{what} {node}"], who)
    return [each for number in range(pieces) for each in board.wait([f"{what} {node} {number}"], who)[0]]


def _durable(plan: Plan) -> list[list[int]]:
    """The rows of each node that leave a result on disk, in order."""
    found: list[list[int]] = [[] for _ in range(plan.nodes)]
    for row, (action, node) in enumerate(zip(plan.action.tolist(), plan.node.tolist(), strict=True)):
        if action != Action.FORWARD:
            found[node].append(row)
    return found


def plan_job(run: Run, data: Dataset, blocks: Sequence[nn.Module] | None) -> PlanJob:
    """The job of a run over nodes. UsageError for nodes that its schedule cannot use, or that data cannot feed."""
    count = len(blocks) if blocks is not None else len(run.network.widths) if isinstance(run.network, Mlp) else 0
    plan = planned(run, count, sizes_of(run, data.shape, data.num_classes, len(data.train)))
    refuse_unused_nodes(run, plan)
    if plan.shards > 1:
        run.shards.split(data.train.labels.numpy(), plan.shards, run.seed)
    return PlanJob(run, plan, data, blocks)


@contextmanager
def _place(folder: RunFolder | None) -> Iterator[Path]:
    """Where the slots go: the run's folder, or one that is gone afterwards."""
    if folder:
        yield folder.path
        return
    with tempfile.TemporaryDirectory(prefix="layerline-") as path:
        yield Path(path)
