"""FedAvg of backprop beside a federated run: two more trainings, and a table of the three.

    RUN/                        the run itself, finished first
    RUN/beside/equal-epochs     FedAvg with as many passes of everybody over its own data
    RUN/beside/equal-bytes      FedAvg with as many rounds as the run's bytes are worth

Both are ordinary runs in ordinary folders, on the run's own shards, network, minibatches, optimizer, codec and seed, in
this process. They begin when the run's result is on disk, so whatever happens to them, it stays; finished ones are
kept, unfinished ones gone on with.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerline.data.text_set import AnySet
from layerline.errors import CheckpointError, LayerlineError, Stopped, UsageError
from layerline.events import Listener, Noted, silent
from layerline.jobs import prepare
from layerline.objectives.backprop import Backprop
from layerline.planned import Outcome
from layerline.readouts.readouts import LastHead
from layerline.reporting.run_folder import RunFolder
from layerline.run import Run
from layerline.runs import AnyRun
from layerline.runtime.members import Membership
from layerline.runtime.pipeline import Measured
from layerline.runtime.saved import load_model
from layerline.runtime.slots import Slots
from layerline.runtime.stop import Stop
from layerline.schedules.equal import Rounds, equal_bytes, equal_epochs, passes_of, through_server
from layerline.schedules.federated import Federated
from layerline.team import Team

EPOCHS, BYTES = "equal-epochs", "equal-bytes"


def wants_table(run: AnyRun) -> bool:
    """Whether FedAvg is to be trained beside a run by this process: by the one that started all others."""
    return isinstance(run, Run) and run.beside == "fedavg" and Membership.of_environment() is None


def lacks_only_table(run: AnyRun, folder: RunFolder) -> bool:
    """Whether a run is finished but for what is beside it."""
    if not wants_table(run):
        return False
    try:
        values = folder.result()
    except CheckpointError:  # it is written again
        return False
    return values is not None and "beside" not in values


def finished(run: AnyRun, folder: RunFolder) -> Outcome:
    """What a finished run left in its folder."""
    values = folder.result()
    assert values is not None
    rows = Measured.of(Slots(folder.path / "slots", {}), run.nodes).rows()
    return load_model(folder.path), values, rows


def twin(run: Run, rounds: Rounds) -> Run:
    """FedAvg of backprop on the nodes, shards and settings of a federated run."""
    assert isinstance(run.schedule, Federated)
    return run.replace(
        beside="none",
        objective=Backprop(),
        readout=LastHead(),
        schedule=Federated(average=True, mean=run.schedule.mean),
        epochs=rounds.passes,
        chapters=rounds.count,
    )


@dataclass(frozen=True)
class Beside:
    """Trains what is beside a run. `folder` of the run; None: nothing is written. `data`: None: as the run names it."""

    run: Run
    folder: RunFolder | None
    data: AnySet | None
    data_dir: str | Path | None
    listener: Listener
    stop: Stop

    def table(self, outcome: Outcome) -> Outcome:
        """The run's outcome with the table, which is in `result.json`, too.

        Stopped when asked to; LayerlineError where one of the two fails. The run's result is there all the same.
        """
        if self.folder is None:
            return self._table(outcome)
        with self.folder.alone():
            return self._table(outcome)

    def _table(self, outcome: Outcome) -> Outcome:
        model, values, rows = outcome
        average = _averages(self.run)
        equal = equal_epochs(self.run.epochs, self.run.chapter_count, self.run.nodes, average)
        lines = [_line("run", self.run, values), self._trained(EPOCHS, equal)]
        own, other = (line["bytes_up"] + line["bytes_down"] for line in lines)
        fewer = equal_bytes(equal.passes, own, other / max(1, equal.count - 1))
        lines.append(lines[1] | {"name": BYTES} if fewer == equal else self._trained(BYTES, fewer))
        values = values | {"beside": lines}
        if self.folder:
            self.folder.rewrite_result(values)
        return model, values, rows

    def _trained(self, name: str, rounds: Rounds) -> dict[str, Any]:
        """The line of one of the two, which is trained if it is not finished."""
        run = twin(self.run, rounds)
        try:
            return _line(name, run, self._values(name, run))
        except Stopped as stopped:
            raise Stopped(
                f"the run itself is finished; FedAvg beside it ({name}) was stopped",
                exit_status=stopped.exit_status,
                hint=f"its table is made by: layerline resume {self.folder.path}" if self.folder else None,
            ) from None
        except LayerlineError as error:
            said = LayerlineError(
                f"the run itself is finished, but FedAvg beside it ({name}) failed: {error.what}",
                hint=f"its table is made by: layerline resume {self.folder.path}" if self.folder else error.hint,
            )
            said.exit_status = error.exit_status
            raise said from None

    def _values(self, name: str, run: Run) -> dict[str, Any]:
        """What FedAvg's own `result.json` says."""
        folder = self._place(self.folder.path / "beside" / name, run) if self.folder else None
        if folder and (values := folder.result()) is not None:
            return values
        rounds = f"{run.chapter_count} round{'s' * (run.chapter_count > 1)}"
        self.listener(Noted(f"beside it: FedAvg of backprop, {name}: {run.epochs} passes in {rounds}"))
        job = prepare(run, self.data, None, self.data_dir, Team(1))
        return job.carry_out(folder, silent, self.stop, False)[1]

    def _place(self, path: Path, run: Run) -> RunFolder:
        """Its folder: as it was left, or a new one."""
        if not (path / "config.toml").is_file():
            shutil.rmtree(path, ignore_errors=True)  # of a process that was killed while it made one
            return RunFolder.create(run, path)
        folder = RunFolder.open(path)
        if folder.run().digest() != run.digest():
            raise UsageError(f"{path} is the folder of another run; move it away")
        return folder


def _averages(run: Run) -> bool:
    assert isinstance(run.schedule, Federated)
    return run.schedule.average


def _line(name: str, run: Run, values: Mapping[str, Any]) -> dict[str, Any]:
    """Of a run: accuracy on what it was judged on; passes of a node over its own data, and its bytes by a server."""
    held_out = values["validation_accuracy"]
    average = _averages(run)
    up, down = through_server(values["bytes_down"], average)
    return {
        "name": name,
        "accuracy": values["test_accuracy"] if held_out is None else held_out,
        "epochs": run.epochs,
        "chapters": run.chapter_count,
        "passes": passes_of(run.epochs, run.nodes, average),
        "bytes_up": round(up),
        "bytes_down": round(down),
        "train_seconds": values["train_seconds"],
    }
