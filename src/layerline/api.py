"""The Python interface: train, resume, evaluate and load, the same powers as the command line."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from layerline.beside import Beside, finished, lacks_only_table, wants_table
from layerline.blocks.own import OwnNetwork
from layerline.data.catalog import TEXT_NAMES, dataset_names, load_part
from layerline.data.dataset import Dataset
from layerline.data.own import path_of, renumber
from layerline.data.text import Vocabulary
from layerline.data.text_set import AnySet, TextSet
from layerline.errors import Stopped, UsageError
from layerline.events import Listener, Row, silent
from layerline.jobs import device_of, prepare
from layerline.planned import Outcome
from layerline.reporting.environment import usable_cores
from layerline.reporting.run_folder import RunFolder
from layerline.reporting.tensorboard import require_tensorboard
from layerline.results import bits_of
from layerline.run import Run
from layerline.runs import AnyRun
from layerline.runtime.judging import readouts_of
from layerline.runtime.saved import AnyModel, load_model
from layerline.runtime.stop import Stop
from layerline.runtime.stream.timed_cut import settled_cut_for
from layerline.runtime.threads import compute_threads
from layerline.sets import load_set
from layerline.stream_run import StreamRun
from layerline.team import Engine, Job, Team, begun_with, create_folder


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


def train(
    run: AnyRun,
    *,
    data: AnySet | None = None,
    network: OwnNetwork | None = None,
    data_dir: str | Path | None = None,
    out_dir: str | Path | None = None,
    listener: Listener = silent,
    stop: Stop | None = None,
    tensorboard: bool = False,
    processes: int = 1,
    restarts: int = 10,
    show: bool = False,
    engine: Engine = "torch",
) -> Result:
    """Train a run from the start.

    `data`: a set of one's own instead of `run.dataset`; `network`: blocks of one's own instead of `run.network`,
    trained in place (an `nn.Sequential` is cut by `split_each`, in a stream as `run.cut` says). `out_dir`: where to
    leave the run folder; None: nothing is written. Raises UsageError, DataError, LayerlineError; Stopped when `stop`
    was set. `tensorboard`: keep a folder for TensorBoard in the run folder.

    `processes`: how many carry out the nodes of a schedule; several need `out_dir`, and take data and network from the
    run. They are started again up to `restarts` times after one was lost; `show`: they show how far they are.
    `engine`: what carries a federated run; "flower" starts a participant for every node on this machine.

    Where the run asks for FedAvg `beside` it, that is trained afterwards, and the table is in `values["beside"]`. Its
    runs are left in the run's folder, too; without `out_dir` nothing is written, and one that is stopped is lost with
    the run.
    """
    if tensorboard:
        require_tensorboard()
        if out_dir is None:
            raise UsageError("TensorBoard's files go to the run folder, but there is none", hint="give out_dir")
    team, data = Team(processes, restarts, show, engine), _named_apart(data)
    run = _resolve(run, data, network is not None)
    if isinstance(run, StreamRun) and run.cuts_by_time:
        data = data or load_set(run, data_dir=data_dir)
        run = settled_cut_for(run, data, network)
    team.check(run, _is_own(data) or network is not None, out_dir is not None)
    job, stop, again = prepare(run, data, network, data_dir, team), stop or Stop(), _handed_in(data, network)
    data = data if wants_table(run) and _is_own(data) else None  # the job has what this process needs of it
    folder = create_folder(run, Path(out_dir)) if out_dir is not None else None
    outcome = _carried_out(job, folder, listener, stop, tensorboard, again)
    return Result(*_with_table(run, outcome, folder, data, data_dir, listener, stop))


def resume(
    run_dir: str | Path,
    *,
    data: AnySet | None = None,
    network: OwnNetwork | None = None,
    data_dir: str | Path | None = None,
    listener: Listener = silent,
    stop: Stop | None = None,
    tensorboard: bool = False,
    processes: int = 1,
    restarts: int = 10,
    show: bool = False,
    engine: Engine | None = None,
) -> Result:
    """Go on with a run from its last checkpoint, to the same bits as if it had never stopped.

    It may go on with another number of `processes`, but not with another `engine`: None is the one it was begun with.
    Of a finished run that lacks but what it wants `beside` it, only that is trained.
    """
    folder = RunFolder.open(Path(run_dir))
    team = Team(processes, restarts, show, engine or begun_with(folder))
    run = folder.run()
    team.check(run, _is_own(data) or network is not None, True)
    stop, again, data = stop or Stop(), _handed_in(data, network), _named_apart(data)
    job = None if lacks_only_table(run, folder) else prepare(run, data, network, data_dir, team)
    data = data if wants_table(run) and _is_own(data) else None  # the job has what this process needs of it
    outcome = _carried_out(job, folder, listener, stop, tensorboard, again) if job else finished(run, folder)
    return Result(*_with_table(run, outcome, folder, data, data_dir, listener, stop))


def _carried_out(
    job: Job, folder: RunFolder | None, listener: Listener, stop: Stop, tensorboard: bool, again: list[str]
) -> Outcome:
    """The outcome; Stopped says how to go on. `again`: what has to be handed in once more then."""
    try:
        return job.carry_out(folder, listener, stop, tensorboard)
    except Stopped as stopped:
        if again and folder:
            words = ", ".join([f'"{folder.path}"', *(f"{name}=…" for name in again)])
            stopped.hint = f"go on with, in Python: layerline.resume({words})"
        raise


def _handed_in(data: AnySet | None, network: OwnNetwork | None) -> list[str]:
    return ["data"] * _is_own(data) + ["network"] * (network is not None)


def _with_table(
    run: AnyRun,
    outcome: Outcome,
    folder: RunFolder | None,
    data: AnySet | None,
    data_dir: str | Path | None,
    listener: Listener,
    stop: Stop,
) -> Outcome:
    """An outcome with what the run wants beside it."""
    if not wants_table(run):
        return outcome
    assert isinstance(run, Run)
    return Beside(run, folder, data, data_dir, listener, stop).table(outcome)


def load(path: str | Path, *, network: OwnNetwork | None = None) -> AnyModel:
    """The trained model of a run folder: a module with `predict` and `scores` on raw examples [B, *shape]."""
    return load_model(path, network)


def evaluate(
    run_dir: str | Path,
    *,
    dataset: str | None = None,
    data: AnySet | None = None,
    data_dir: str | Path | None = None,
    network: OwnNetwork | None = None,
) -> dict[str, Any]:
    """Accuracy of a trained model on a test set: `{"dataset", "examples", "test_accuracy", "readouts"}`."""
    model = load(run_dir, network=network)
    model.to("cuda" if torch.cuda.is_available() and model.run.device != "cpu" else "cpu")
    data = data or _to_judge(model, dataset, data_dir)
    if isinstance(data, TextSet):  # tokens mean what they meant when the model was trained
        in_bytes = isinstance(model.run, StreamRun) and model.run.tokens == "bytes"
        data = replace(data, text=data.text.written_in(Vocabulary(None if in_bytes else "".join(model.classes))))
    if data.test is None:
        raise UsageError(f"{data.name} has no test set")
    if data.num_classes != len(model.classes):
        raise UsageError(f"{data.name} has {data.num_classes} classes, the model {len(model.classes)}")
    with compute_threads(model.run):
        readouts = readouts_of(model, data)
    return {
        "dataset": data.name,
        "examples": len(data.test),
        "test_accuracy": None if isinstance(data, TextSet) else next(iter(readouts.values())),
        "readouts": readouts,
        **bits_of(model, data),
    }


def _to_judge(model: AnyModel, dataset: str | None, data_dir: str | Path | None) -> AnySet:
    """The set that was named, or the run's."""
    run = model.run
    if not run.has_own_data:
        return load_set(run, dataset, data_dir=data_dir)
    if dataset is None:
        raise UsageError(
            f"every node of this run has held-out data of its own, in {run.dataset}",
            hint=f"name the set to judge on: --dataset {path_of(run.dataset, 0)}",
        )
    path = Path(dataset).expanduser()
    data = load_part(dataset) if path.exists() else load_set(run, dataset, data_dir=data_dir)
    assert isinstance(data, Dataset)
    return renumber(data, model.classes)  # labels count in the order in which the nodes named the classes


def _resolve(run: AnyRun, data: AnySet | None, own_network: bool) -> AnyRun:
    """What is left open is decided and recorded before anything starts: data, network, chapters, threads, device."""
    if own_network:
        run = run.with_own_network()
    name = data.name if data and not run.has_own_data else run.dataset
    is_path = run.has_own_data or (name not in (*dataset_names(), *TEXT_NAMES) and Path(name).exists())
    return run.replace(
        dataset=str(Path(name).expanduser().resolve()) if is_path else name,  # found from any folder when resumed
        **run.settled,
        threads=run.threads or max(1, usable_cores() // run.nodes),
        device=device_of(run).type,
    )


def _is_own(data: AnySet | None) -> bool:
    """Whether a set was handed in that cannot be read by its name."""
    if data is None:
        return False
    if _has_known_name(data):
        return isinstance(data, Dataset) and not data.published
    return not data.name.startswith("hf:") and not Path(data.name).exists()


def _has_known_name(data: AnySet) -> bool:
    return data.name in (*dataset_names(), *TEXT_NAMES)


def _named_apart(data: AnySet | None) -> AnySet | None:
    """A set of one's own with the name of a published one gets another, lest that one is read in its place."""
    if isinstance(data, Dataset) and _is_own(data) and _has_known_name(data):
        return replace(data, name=f"{data.name} (handed in)")
    return data
