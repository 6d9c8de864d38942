"""The Python interface: train, resume, evaluate and load, the same powers as the command line."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from layerline.blocks.network import Own
from layerline.blocks.split import split_each
from layerline.data.catalog import dataset_names, load_dataset
from layerline.data.dataset import Dataset
from layerline.errors import UsageError
from layerline.events import Event, Listener, Row, Started
from layerline.planned import PlanJob, plan_job
from layerline.reporting.environment import usable_cores
from layerline.reporting.run_folder import RunFolder
from layerline.reporting.tensorboard import require_tensorboard
from layerline.results import readouts_of, values_of
from layerline.run import Run
from layerline.runs import AnyRun
from layerline.runtime.checkpoint import Checkpoints
from layerline.runtime.execute import AnyTrainer, Execution, make_trainer
from layerline.runtime.model import build_model
from layerline.runtime.saved import AnyModel, load_model, save_model
from layerline.runtime.stop import Stop
from layerline.runtime.stream.model import build_stream_model
from layerline.runtime.threads import compute_threads
from layerline.stream_run import StreamRun
from layerline.streamed import StreamJob, stream_job
from layerline.team import Team, create_folder


@dataclass(frozen=True)
class Result:
    """A finished training."""

    model: AnyModel
    values: dict[str, Any]
    """What `result.json` holds."""
    rows: list[Row]
    """The numbers of every epoch and block, as in `metrics.csv`."""

    @property
    def test_accuracy(self) -> float | None:
        """Fraction of the test set the chosen readout gets right; None if the test set was not read."""
        value: float | None = self.values["test_accuracy"]
        return value


def _silent(event: Event) -> None:
    pass


def train(
    run: AnyRun,
    *,
    data: Dataset | None = None,
    network: nn.Sequential | Sequence[nn.Module] | None = None,
    data_dir: str | Path | None = None,
    out_dir: str | Path | None = None,
    listener: Listener = _silent,
    stop: Stop | None = None,
    tensorboard: bool = False,
    processes: int = 1,
    restarts: int = 10,
    show: bool = False,
) -> Result:
    """Train a run from the start.

    `data`: a set of one's own instead of `run.dataset`; `network`: blocks of one's own instead of `run.network`,
    trained in place (an `nn.Sequential` is cut by `split_each`). `out_dir`: where to leave the run folder; None:
    nothing is written. Raises UsageError, DataError, LayerlineError; Stopped when `stop` was set.
    `tensorboard`: keep a folder for TensorBoard in the run folder.

    `processes`: how many carry out the nodes of a schedule; several need `out_dir`, and take data and network from the
    run. They are started again up to `restarts` times after one was lost; `show`: they show how far they are.
    """
    if tensorboard:
        require_tensorboard()
        if out_dir is None:
            raise UsageError("TensorBoard's files go to the run folder, but there is none", hint="give out_dir")
    team = Team(processes, restarts, show)
    job = _prepare(_resolve(run, data, network is not None), data, network, data_dir)
    team.check(job, _is_own(data) or network is not None, out_dir is not None)
    folder = create_folder(job.run, Path(out_dir)) if out_dir is not None else None
    return Result(*team.carry_out(job, folder, listener, stop or Stop(), tensorboard, data_dir))


def resume(
    run_dir: str | Path,
    *,
    data: Dataset | None = None,
    network: nn.Sequential | Sequence[nn.Module] | None = None,
    data_dir: str | Path | None = None,
    listener: Listener = _silent,
    stop: Stop | None = None,
    tensorboard: bool = False,
    processes: int = 1,
    restarts: int = 10,
    show: bool = False,
) -> Result:
    """Go on with a run from its last checkpoint, to the same bits as if it had never stopped.

    It may go on with another number of `processes`.
    """
    team = Team(processes, restarts, show)
    folder = RunFolder.open(Path(run_dir))
    job = _prepare(folder.run(), data, network, data_dir)
    team.check(job, _is_own(data) or network is not None, True)
    return Result(*team.carry_out(job, folder, listener, stop or Stop(), tensorboard, data_dir))


def load(path: str | Path, *, network: nn.Sequential | Sequence[nn.Module] | None = None) -> AnyModel:
    """The trained model of a run folder: a module with `predict` and `scores` on raw examples [B, *shape]."""
    return load_model(path, _blocks(network))


def evaluate(
    run_dir: str | Path,
    *,
    dataset: str | None = None,
    data: Dataset | None = None,
    data_dir: str | Path | None = None,
    network: nn.Sequential | Sequence[nn.Module] | None = None,
) -> dict[str, Any]:
    """Accuracy of a trained model on a test set: `{"dataset", "examples", "test_accuracy", "readouts"}`."""
    model = load(run_dir, network=network)
    model.to("cuda" if torch.cuda.is_available() and model.run.device != "cpu" else "cpu")
    data = data or load_dataset(dataset or model.run.dataset, data_dir=data_dir)
    if data.test is None:
        raise UsageError(f"{data.name} has no test set")
    if data.num_classes != len(model.classes):
        raise UsageError(f"{data.name} has {data.num_classes} classes, the model {len(model.classes)}")
    with compute_threads(model.run):
        readouts = readouts_of(model, data)
    return {
        "dataset": data.name,
        "examples": len(data.test),
        "test_accuracy": next(iter(readouts.values())),
        "readouts": readouts,
    }


@dataclass(frozen=True)
class _Job:
    """A run with everything it needs; what can be wrong with it has been found before a folder is made."""

    trainer: AnyTrainer
    data: Dataset

    @property
    def run(self) -> AnyRun:
        """What is trained."""
        return self.trainer.run

    def carry_out(
        self, folder: RunFolder | None, listener: Listener, stop: Stop, tensorboard: bool
    ) -> tuple[AnyModel, dict[str, Any], list[Row]]:
        """Train from the folder's last checkpoint, if there is one, to the end; leave everything in the folder."""
        trainer, data = self.trainer, self.data
        run, model = trainer.run, trainer.model
        checkpoints = Checkpoints(folder.checkpoints, run.digest(), data.digest()) if folder else None
        hears = folder.listening(listener, tensorboard=tensorboard) if folder else nullcontext(listener)
        with folder.alone() if folder else nullcontext():
            with compute_threads(run), hears as heard:
                execution = Execution(trainer, data, checkpoints, heard, stop)
                execution.restore()
                where = str(folder.path) if folder else ""
                rows = list(execution.progress.rows)
                heard(Started(run.preset, where, trainer.steps_done, trainer.steps, run.epochs, rows))
                progress = execution.run()
                values = values_of(model, data, progress, folder, heed=execution.heed)
            if folder:
                save_model(model, folder.model)
                folder.write_result(values, progress.rows)
        return model, values, progress.rows


def _prepare(
    run: AnyRun,
    data: Dataset | None,
    network: nn.Sequential | Sequence[nn.Module] | None,
    data_dir: str | Path | None,
) -> _Job | PlanJob | StreamJob:
    data = data or load_dataset(run.dataset, data_dir=data_dir)
    if run.validation:
        data = data.hold_out()
    device = _device(run)
    if isinstance(run, StreamRun):
        return _prepare_stream(run, data, network is not None, device)
    assert isinstance(run, Run)
    if network is not None and not isinstance(run.network, Own):
        raise UsageError("this run describes its network itself", hint="leave out network=, or start a new run")
    with compute_threads(run):
        if run.is_planned:
            return plan_job(run, data, _blocks(network))
        return _Job(make_trainer(build_model(run, data, _blocks(network)).to(device), data), data)


def _prepare_stream(run: StreamRun, data: Dataset, own_network: bool, device: torch.device) -> _Job | StreamJob:
    if own_network:
        raise UsageError("a stream trains the networks that it describes", hint="leave out network=")
    with compute_threads(run):
        model = build_stream_model(run, data).to(device)
        return stream_job(run, model, data) if run.is_planned else _Job(make_trainer(model, data), data)


def _resolve(run: AnyRun, data: Dataset | None, own_network: bool) -> AnyRun:
    """What is left open is decided and recorded before anything starts: data, network, chapters, threads, device."""
    if own_network and isinstance(run, Run):
        run = run.with_own_network()
    name = data.name if data else run.dataset
    is_path = name not in dataset_names() and Path(name).exists()
    return run.replace(
        dataset=str(Path(name).resolve()) if is_path else name,  # found from any folder when resumed
        **run.settled,
        threads=run.threads or max(1, usable_cores() // run.nodes),
        device=_device(run).type,
    )


def _is_own(data: Dataset | None) -> bool:
    """Whether a set cannot be read by its name."""
    return data is not None and data.name not in dataset_names() and not Path(data.name).exists()


def _device(run: AnyRun) -> torch.device:
    if run.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("there is no CUDA device here", hint="leave out --device, or: --device cpu")
    return torch.device("cuda" if run.device != "cpu" and torch.cuda.is_available() else "cpu")


def _blocks(network: nn.Sequential | Sequence[nn.Module] | None) -> list[nn.Module] | None:
    if network is None:
        return None
    if isinstance(network, nn.Sequential):
        return split_each(network)
    blocks = list(network) if isinstance(network, Sequence | nn.ModuleList) else []
    if not blocks or not all(isinstance(block, nn.Module) for block in blocks):
        raise UsageError(
            f"a {type(network).__name__} is no network of blocks",
            hint="give an nn.Sequential, or a list with a module for every block",
        )
    return blocks
