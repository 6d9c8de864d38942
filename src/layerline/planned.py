"""A run over logical nodes, from its plan to its result; in one process here, in several by `processes`.

What can be wrong with it is found before a folder is made: nodes that the schedule cannot use, too little data.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from layerline.blocks.network import Mlp
from layerline.data.dataset import Dataset
from layerline.events import Listener, Row, Started
from layerline.reporting.run_folder import RunFolder
from layerline.results import values_of
from layerline.run import Run
from layerline.runtime.checkpoint import Progress
from layerline.runtime.model import Model
from layerline.runtime.pipeline import Measured, Pipeline
from layerline.runtime.planning import planned, refuse_unused_nodes, sizes_of
from layerline.runtime.saved import save_model
from layerline.runtime.stop import Stop
from layerline.runtime.threads import compute_threads
from layerline.schedules.plan import Plan


@dataclass(frozen=True)
class PlanJob:
    """A run with its plan and everything else it needs."""

    run: Run
    plan: Plan
    data: Dataset
    blocks: Sequence[nn.Module] | None

    def carry_out(
        self, folder: RunFolder | None, listener: Listener, stop: Stop, tensorboard: bool
    ) -> tuple[Model, dict[str, Any], list[Row]]:
        """Train from the finished slots in the folder to the end; leave everything in the folder."""
        hears = folder.listening(listener, tensorboard=tensorboard) if folder else nullcontext(listener)
        with _place(folder) as path, folder.alone() if folder else nullcontext():
            pipeline = Pipeline(self.run, self.plan, self.data, path, blocks=self.blocks)
            with compute_threads(self.run), hears as heard:
                before = Measured.of(pipeline.slots, self.plan.nodes)
                where = str(folder.path) if folder else ""
                heard(Started(self.run.preset, where, *pipeline.minibatches(), self.run.epochs, before.rows()))
                pipeline.work(heard, stop, pipeline.here(), sitting=before.sittings)
                model, measured = pipeline.model(), Measured.of(pipeline.slots, self.plan.nodes)
                progress, more = Progress(measured.seconds, measured.rows()), measured.values(self.plan)
                values = values_of(model, self.data, progress, folder, lambda: pipeline.heed(stop), **more)
            if folder:
                save_model(model, folder.model)
                folder.write_result(values, progress.rows)
        return model, values, progress.rows


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
