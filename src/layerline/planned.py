"""A run over logical nodes, from its plan to its result.

    alone      one process carries out all nodes
    member     this process carries out some nodes; rank 0 puts the result together
    launcher   this process starts the members, and reads what rank 0 left

What can be wrong with it is found before a folder is made: nodes that the schedule cannot use, too little data.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from layerline.data.dataset import Dataset
from layerline.data.own import OwnData
from layerline.data.shards import BaseShards
from layerline.events import Listener, Noted, PlanStarts, Row, silent
from layerline.reporting.gantt_run import MISSING, can_draw, draw_run
from layerline.reporting.run_folder import RunFolder
from layerline.reporting.trace import write_trace
from layerline.results import values_of, values_of_nodes
from layerline.run import Run
from layerline.runtime.checkpoint import Progress
from layerline.runtime.forecast import Forecast
from layerline.runtime.judging import judged_together, readouts_of
from layerline.runtime.members import Board, Membership, join_seconds
from layerline.runtime.participants import values_of_participants
from layerline.runtime.pipeline import Measured, Pipeline
from layerline.runtime.planning import plan_of, planned, refuse_unused_nodes
from layerline.runtime.saved import AnyModel, save_model
from layerline.runtime.standing import Standings
from layerline.runtime.stop import Stop
from layerline.runtime.threads import compute_threads
from layerline.runtime.together import Together, Trained, both, judge_here, started
from layerline.schedules.plan import Plan

Outcome = tuple[AnyModel, dict[str, Any], list[Row]]


@dataclass(frozen=True)
class PlanJob:
    """A run with its plan and everything else it needs."""

    run: Run
    plan: Plan
    data: Dataset | OwnData
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
                heard = stack.enter_context(hears) if member.rank == 0 else silent
                stack.enter_context(compute_threads(self.run))
                part = Together(self.run, self.plan, self.data, self.blocks, member, board, folder.path)
                outcome = self.finish(part.train(heard, stop), folder, heard, stop)
            board.leave()
            return outcome
        with _place(folder) as path, folder.alone() if folder else nullcontext():
            pipeline = Pipeline(self.run, self.plan, self.data, path, blocks=self.blocks, stays=folder is not None)
            with compute_threads(self.run), hears as heard:
                return self.finish(self._alone(pipeline, folder, heard, stop), folder, heard, stop)

    def _alone(self, pipeline: Pipeline, folder: RunFolder | None, heard: Listener, stop: Stop) -> Trained:
        """All nodes in this process."""
        before = Measured.of(pipeline.slots, self.plan.nodes)
        forecast = Forecast(self.run, self.plan, [0] * self.plan.nodes, self.data, pipeline.slots)
        if not before.sittings and forecast.worth_measuring():
            forecast.note([forecast.measured()])
        standings = Standings(pipeline)
        heard(started(pipeline, before, str(folder.path) if folder else ""))
        heard(PlanStarts(self.plan, forecast.before(), standings.look))
        pipeline.work(both(standings.hear, heard), stop, pipeline.here(), sitting=before.sittings)
        model = pipeline.model()
        pipeline.tidy()
        judged = judge_here(pipeline, model, self.data, stop)
        return Trained(pipeline, model, Measured.of(pipeline.slots, self.plan.nodes), forecast, judged)

    def finish(
        self,
        trained: Trained,
        folder: RunFolder | None,
        heard: Listener,
        stop: Stop,
        also: Mapping[str, Any] | None = None,
    ) -> Outcome:
        """Evaluate, and leave everything in the folder; `also`: in `result.json`, from who knows the participants."""
        model, measured, forecast = trained.model, trained.measured, trained.forecast
        progress, more = Progress(measured.seconds, measured.rows()), measured.values(max(forecast.places) + 1)
        predicted, source = forecast.after(measured.facts)
        more |= {"predicted_seconds": round(predicted.makespan, 3), "predicted_from": source} | dict(also or {})
        heed = partial(trained.pipeline.heed, stop)
        if also is None:
            more |= values_of_participants(self.run, trained.pipeline.plan, self.data, model, measured.facts, heed)
        if isinstance(self.data, Dataset):
            readouts = readouts_of(model, self.data, heed) if self.data.test else {}
        else:
            readouts = judged_together(trained.judged)
            more |= values_of_nodes(trained.judged, self.data, self.run.readout.kind)
        values = values_of(model, self.data.name, readouts, progress, folder, **more)
        if folder:
            title = f"{self.run.preset} · {self.plan.schedule}"
            write_trace(folder.path / "trace.json", self.plan, measured.facts, title)
            if can_draw() and not self.plan.by_batch:  # a bar for every minibatch would be no picture
                draw_run(self.plan, measured.facts, predicted, folder.path / "gantt.svg", title)
            elif not self.plan.by_batch:
                heard(Noted(MISSING))
            save_model(model, folder.model)
            folder.write_result(values, progress.rows)
        return model, values, progress.rows


def plan_job(run: Run, data: Dataset | OwnData, blocks: Sequence[nn.Module] | None) -> PlanJob:
    """The job of a run over nodes. UsageError for nodes that its schedule cannot use, or that data cannot feed."""
    plan = plan_of(run, data, None if blocks is None else len(blocks))
    refuse_unused_nodes(run, plan, data.examples)
    if isinstance(data, Dataset) and isinstance(run.shards, BaseShards) and plan.shards > 1:
        run.shards.split(data.train.labels.numpy(), plan.shards, run.seed)
    return PlanJob(run, plan, data, blocks)


def check_nodes(run: Run) -> None:
    """UsageError for nodes that the schedule of a run cannot use, found without its data."""
    examples = run.nodes * run.batch_size  # as many as any plan needs
    refuse_unused_nodes(run, planned(run, run.block_count, examples=examples), examples)


@contextmanager
def _place(folder: RunFolder | None) -> Iterator[Path]:
    """Where the slots go: the run's folder, or one that is gone afterwards."""
    if folder:
        yield folder.path
        return
    with tempfile.TemporaryDirectory(prefix="layerline-") as path:
        yield Path(path)
