"""How many processes carry out a run, and who starts them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from layerline.errors import CheckpointError, UsageError
from layerline.events import Listener, Row
from layerline.planned import Outcome
from layerline.reporting.run_folder import RunFolder
from layerline.run import Run
from layerline.runs import AnyRun
from layerline.runtime.flower.local import check_flower, require_flower
from layerline.runtime.launch import launch
from layerline.runtime.members import Board, Membership, join_seconds, refuse_idle, silence_seconds, stop_seconds
from layerline.runtime.pipeline import Measured
from layerline.runtime.saved import load_model
from layerline.runtime.slots import Slots
from layerline.runtime.stop import Stop
from layerline.stream_run import StreamRun
from layerline.transport.privacy import Open

Engine = Literal["torch", "flower"]


class Job(Protocol):
    """A run with everything it needs."""

    @property
    def run(self) -> AnyRun:
        """What is trained."""

    def carry_out(self, folder: RunFolder | None, listener: Listener, stop: Stop, tensorboard: bool) -> Outcome:
        """Train to the end."""


@dataclass(frozen=True)
class Team:
    """So many processes, started again so often after one was lost; `show`: on standard error how far they are.

    `engine`: what carries a federated run; with Flower, every node is a participant of its own.
    """

    processes: int
    restarts: int = 10
    show: bool = False
    engine: Engine = "torch"

    def starts(self, run: AnyRun) -> bool:
        """Whether processes are to be started for it: several carry it out, and this is none of them."""
        return self.processes > 1 and run.is_planned and not Membership.of_environment()

    def check(self, run: AnyRun, own: bool, has_folder: bool) -> None:
        """UsageError where several processes cannot carry it out. `own`: with data or modules handed in from Python."""
        member = Membership.of_environment()
        check_engine(run, self.engine)
        if self.engine == "flower":
            _refuse_unshared("participants", "engine", own, has_folder)
            return
        if member and run.is_planned:
            refuse_idle(member.world, run.nodes)
            if not has_folder:
                raise UsageError(
                    "processes that work together need a folder to leave their slots in", hint="give out_dir"
                )
        if self.processes > 1 or member:
            # What is wrong with them is said before a start.
            for seconds in (join_seconds, silence_seconds, stop_seconds):
                seconds()
        if isinstance(run, StreamRun):
            refuse_shared(run, member.world if member else self.processes)
        if self.processes == 1 or member:
            return
        if not run.is_planned:
            raise UsageError(
                f"{self.processes} processes need nodes to carry out",
                hint="choose --nodes (and, in chapters, --schedule), or one process",
            )
        refuse_idle(self.processes, run.nodes)
        _refuse_unshared("other processes", "processes", own, has_folder)


def _refuse_unshared(who: str, setting: str, own: bool, has_folder: bool) -> None:
    """UsageError for what those who are started by `setting` cannot see."""
    if own:
        raise UsageError(
            f"{who} cannot be handed data or modules from Python",
            hint=f"let them read it: name the data set in the run; or leave out {setting}",
        )
    if not has_folder:
        raise UsageError(f"{who} leave their results in a folder", hint="give out_dir")


def begun_with(folder: RunFolder) -> Engine:
    """The engine that carried a run so far."""
    return "flower" if (folder.path / "flower").exists() else "torch"


def check_engine(run: AnyRun, engine: Engine) -> None:
    """UsageError where an engine is not installed, or cannot carry the run; found without the data."""
    member = Membership.of_environment()
    if member and not member.launched and isinstance(run, Run) and run.beside != "none":
        raise UsageError(
            "what is beside a run is trained by the process that started all others, which torchrun is not",
            hint="choose --beside none, or start the processes by: layerline train … --processes P",
        )
    if engine == "torch":
        if isinstance(run, Run) and not isinstance(run.privacy, Open):
            raise UsageError(
                "clipping and noise are Flower's: processes send each other blocks as they are",
                hint="choose --engine flower, or leave out --privacy",
            )
        return
    require_flower()
    if not isinstance(run, Run):
        raise UsageError("Flower carries federated runs, and no streams", hint="leave out --engine")
    check_flower(run)


@dataclass(frozen=True)
class Launch:
    """A run whose folder other processes are started for; they read the data, this one does not."""

    run: AnyRun
    team: Team
    data_dir: str | Path | None
    kept: str = "finished slots"
    """What they go on from after one was lost."""
    rows: Callable[[RunFolder], list[Row]] | None = None
    """The numbers of all epochs, from the folder; None: from the finished slots."""

    def carry_out(self, folder: RunFolder | None, listener: Listener, stop: Stop, tensorboard: bool) -> Outcome:
        """Start them, and take their result from the folder."""
        assert folder
        words = ["resume", str(folder.path)]
        words += ["--data-dir", str(self.data_dir)] if self.data_dir else []
        words += ["--tensorboard"] if tensorboard else []
        words += [] if self.team.show else ["--quiet"]
        restarts = self.team.restarts
        launch(words, self.team.processes, folder.path, restarts=restarts, stop=stop, kept=self.kept)
        values = folder.result()
        if values is None:
            raise CheckpointError(f"the workers ended, but left no result in {folder.path}")
        rows = self.rows(folder) if self.rows else Measured.of(Slots(folder.path / "slots", {}), self.run.nodes).rows()
        return load_model(folder.path), values, rows


def refuse_shared(run: StreamRun, processes: int) -> None:
    """UsageError where a process would have several nodes of a method that PyTorch carries out."""
    if run.method in (None, "plain") or processes == run.nodes:
        return
    what = f"{processes} processes" if processes > 1 else "one process"
    raise UsageError(
        f"--method {run.method} is carried out by a process for every node: {what} cannot be {run.nodes} nodes",
        hint=f"start {run.nodes}: --processes {run.nodes} (with torchrun: as many; in Python: processes={run.nodes})",
    )


def create_folder(run: AnyRun, out_dir: Path) -> RunFolder:
    """The folder of a new run. Processes that torchrun started share one, or have one of the same name each.

    UsageError where it is used already, by another run if torchrun has started this one again.
    """
    member = Membership.of_environment()
    if member is None:
        return RunFolder.create(run, out_dir)
    board = Board(member, join_seconds())
    with board.telling():
        if member.rank:  # one after the other: two of one machine must not both make it
            board.wait([f"folder {member.rank - 1}"], [f"rank {member.rank - 1}"])
        folder = _joined(run, out_dir)
        board.post(f"folder {member.rank}", True)
    return folder


def _joined(run: AnyRun, out_dir: Path) -> RunFolder:
    if not (out_dir / "config.toml").is_file():
        return RunFolder.create(run, out_dir)
    folder = RunFolder.open(out_dir)
    if folder.run().digest() != run.digest():
        raise UsageError(f"{out_dir} is the folder of another run", hint="choose another folder: --out-dir FOLDER")
    return folder
