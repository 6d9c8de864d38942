"""From a run to whatever carries it out: this process, nodes by their plan, other processes, or Flower."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from layerline.blocks.network import Own
from layerline.blocks.own import OwnNetwork, blocks_of
from layerline.data.text_set import AnySet, TextSet
from layerline.errors import UsageError
from layerline.events import Listener, Started
from layerline.federated import FlowerLaunch
from layerline.planned import Outcome, check_nodes, plan_job
from layerline.reporting.run_folder import RunFolder
from layerline.results import bits_of, values_of
from layerline.run import Run
from layerline.runs import AnyRun
from layerline.runtime.checkpoint import Checkpoints
from layerline.runtime.execute import AnyTrainer, Execution, make_trainer
from layerline.runtime.judging import readouts_of
from layerline.runtime.members import Membership, join_seconds
from layerline.runtime.memory import kept_memory
from layerline.runtime.model import build_model
from layerline.runtime.own_data import gather, refuse_missing
from layerline.runtime.saved import save_model
from layerline.runtime.stop import Stop
from layerline.runtime.stream.free import FreeTrainer
from layerline.runtime.stream.model import StreamModel, build_stream_model, refuse_single_examples
from layerline.runtime.threads import compute_threads
from layerline.sets import load_set
from layerline.stream_job import BaseStreamJob
from layerline.stream_run import StreamRun
from layerline.streamed import stream_job
from layerline.team import Job, Launch, Team


@dataclass(frozen=True)
class OneProcess:
    """A run with everything it needs; what can be wrong with it has been found before a folder is made."""

    trainer: AnyTrainer
    data: AnySet

    @property
    def run(self) -> AnyRun:
        """What is trained."""
        return self.trainer.run

    def carry_out(self, folder: RunFolder | None, listener: Listener, stop: Stop, tensorboard: bool) -> Outcome:
        """Train from the folder's last checkpoint, if there is one, to the end; leave everything in the folder."""
        trainer, data = self.trainer, self.data
        run, model = trainer.run, trainer.model
        checkpoints = Checkpoints(folder.checkpoints, run.digest(), data.digest()) if folder else None
        hears = folder.listening(listener, tensorboard=tensorboard) if folder else nullcontext(listener)
        with folder.alone() if folder else nullcontext():
            with compute_threads(run), kept_memory(), hears as heard:
                if folder and isinstance(trainer, FreeTrainer):
                    trainer.order.write(folder.order)
                execution = Execution(trainer, data, checkpoints, heard, stop)
                execution.restore()
                where = str(folder.path) if folder else ""
                rows = list(execution.progress.rows)
                heard(Started(run.preset, where, trainer.steps_done, trainer.steps, run.epochs, rows))
                progress = execution.run()
                readouts = readouts_of(model, data, execution.heed) if data.test else {}
                held_out = True if isinstance(data, TextSet) else None
                more = bits_of(model, data, execution.heed) | trainer.results()
                values = values_of(model, data.name, readouts, progress, folder, held_out=held_out, **more)
            if folder:
                save_model(model, folder.model)
                folder.write_result(values, progress.rows)
        return model, values, progress.rows


def prepare(
    run: AnyRun,
    data: AnySet | None,
    network: OwnNetwork | None,
    data_dir: str | Path | None,
    team: Team,
) -> Job:
    """The job of a run, with its data and network. UsageError for what cannot be trained."""
    if isinstance(run, Run) and run.has_own_data:
        return _prepare_own(run, data, network, team)
    data = data or load_set(run, data_dir=data_dir)
    if run.validation:
        data = data.hold_out()
    device = device_of(run)
    if isinstance(run, StreamRun):
        return _prepare_stream(run, data, network, device, team, data_dir)
    if isinstance(data, TextSet):
        raise UsageError(f"{data.name} is a text, which only a language model learns from", hint="train a transformer")
    if network is not None and not isinstance(run.network, Own):
        raise UsageError("this run describes its network itself", hint="leave out network=, or start a new run")
    with compute_threads(run):
        if run.is_planned:
            job = plan_job(run, data, blocks_of(network))
            if team.engine == "flower":
                return FlowerLaunch(run, data_dir, job)
            return Launch(run, team, data_dir) if team.starts(run) else job
        return OneProcess(make_trainer(build_model(run, data, blocks_of(network)).to(device), data), data)


def _prepare_own(run: Run, data: AnySet | None, network: OwnNetwork | None, team: Team) -> Job:
    """Of nodes that each read data of their own: only processes that carry them out do."""
    if data is not None:
        raise UsageError("every node reads data of its own", hint="leave out data=, or choose other shards")
    device_of(run)
    if team.engine == "flower" or team.starts(run):
        check_nodes(run)
        refuse_missing(run)
        return FlowerLaunch(run, None) if team.engine == "flower" else Launch(run, team, None)
    return plan_job(run, gather(run, join_seconds()), blocks_of(network))


def _prepare_stream(
    run: StreamRun,
    data: AnySet,
    network: OwnNetwork | None,
    device: torch.device,
    team: Team,
    data_dir: str | Path | None,
) -> Job:
    with compute_threads(run):
        model = build_stream_model(run, data, network).to(device)
        refuse_single_examples(model, data)
        if not run.is_planned:
            return OneProcess(make_trainer(model, data), data)
        job = _planned_job(run, model, data)
        if team.starts(run):
            return Launch(run, team, data_dir, "last checkpoint", job.holding(()).rows)
        return job.of(Membership.of_environment())


def _planned_job(run: StreamRun, model: StreamModel, data: AnySet) -> BaseStreamJob:
    if run.method is None:
        return stream_job(run, model, data)
    from layerline.baselines.job import method_job  # here: PyTorch's pipelines take seconds to import

    return method_job(run, model, data)


def device_of(run: AnyRun) -> torch.device:
    """Where a run computes. UsageError for a GPU that is not there."""
    if run.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("there is no CUDA device here", hint="leave out --device, or: --device cpu")
    return torch.device("cuda" if run.device != "cpu" and torch.cuda.is_available() else "cpu")
