"""How many processes carry out a run, and who starts them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from layerline.errors import CheckpointError, UsageError
from layerline.events import Listener
from layerline.planned import Outcome, PlanJob, join_seconds
from layerline.reporting.run_folder import RunFolder
from layerline.runs import AnyRun
from layerline.runtime.launch import launch
from layerline.runtime.members import Board, Membership, placement
from layerline.runtime.pipeline import Measured
from layerline.runtime.saved import load_model
from layerline.runtime.slots import Slots
from layerline.runtime.stop import Stop
from layerline.streamed import StreamJob


class Job(Protocol):
    """A run with everything it needs."""

    @property
    def run(self) -> AnyRun:
        """What is trained."""

    def carry_out(self, folder: RunFolder | None, listener: Listener, stop: Stop, tensorboard: bool) -> Outcome:
        """Train to the end, here."""


@dataclass(frozen=True)
class Team:
    """So many processes, started again so often after one was lost; `show`: on standard error how far they are."""

    processes: int
    restarts: int = 10
    show: bool = False

    def check(self, job: Job, own: bool, has_folder: bool) -> None:
        """UsageError where several processes cannot carry it out. `own`: with data or modules handed in from Python."""
        member = Membership.of_environment()
        if member and isinstance(job, PlanJob | StreamJob):
            placement(job.plan, member.world)
            if not has_folder:
                raise UsageError(
                    "processes that work together need a folder to leave their slots in", hint="give out_dir"
                )
        if self.processes == 1 or member:
            return
        if not isinstance(job, PlanJob | StreamJob):
            raise UsageError(
                f"{self.processes} processes need nodes to carry out",
                hint="choose --schedule and --nodes, or one process",
            )
        placement(job.plan, self.processes)
        if own:
            raise UsageError(
                "other processes cannot be handed data or modules from Python",
                hint="let them read it: name the data set in the run; or leave out processes",
            )
        if not has_folder:
            raise UsageError("several processes leave their results in a folder", hint="give out_dir")

    def carry_out(
        self,
        job: Job,
        folder: RunFolder | None,
        listener: Listener,
        stop: Stop,
        tensorboard: bool,
        data_dir: str | Path | None,
    ) -> Outcome:
        """Train: in this process, or by starting others."""
        if self.processes == 1 or Membership.of_environment() or not isinstance(job, PlanJob | StreamJob):
            return job.carry_out(folder, listener, stop, tensorboard)
        assert folder
        words = ["resume", str(folder.path)]
        words += ["--data-dir", str(data_dir)] if data_dir else []
        words += ["--tensorboard"] if tensorboard else []
        words += [] if self.show else ["--quiet"]
        kept = "last checkpoint" if isinstance(job, StreamJob) else "finished slots"
        launch(words, self.processes, folder.path, restarts=self.restarts, kept=kept)
        values = folder.result()
        if values is None:
            raise CheckpointError(f"the workers ended, but left no result in {folder.path}")
        if isinstance(job, StreamJob):
            return load_model(folder.path), values, job.rows(folder)
        identity = {"run": job.run.digest(), "data": job.data.digest(), "plan": job.plan.digest()}
        rows = Measured.of(Slots(folder.path / "slots", identity), job.plan.nodes).rows()
        return load_model(folder.path, job.blocks), values, rows


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
