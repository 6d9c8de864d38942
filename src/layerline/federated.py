"""A federated run on Flower, from the command line to its result.

layerline train … --engine flower      starts a SuperLink and SuperNodes here, hands the run in, and shows it
the server, in a process of Flower's   the plan, task by task; all results into the folder (`federated_server`)
`flwr run`                             hands the same app in to a deployment elsewhere; the server makes the folder
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from layerline.data.catalog import dataset_names
from layerline.data.own import path_of
from layerline.errors import CheckpointError, LayerlineError, Stopped
from layerline.events import Listener, Noted, PlanStarts, Row, Standing
from layerline.planned import Outcome, PlanJob, plan_job
from layerline.reporting.run_folder import RunFolder
from layerline.run import Run
from layerline.runtime.flower.local import Deployment
from layerline.runtime.flower.own import kept_accounts, nobodys
from layerline.runtime.forecast import Forecast
from layerline.runtime.pipeline import Measured, Pipeline
from layerline.runtime.saved import load_model
from layerline.runtime.slots import Slots
from layerline.runtime.stop import Stop
from layerline.runtime.together import started

_SECONDS_BETWEEN = 0.2
_SILENCE_SECONDS = 120.0
"""After which the server is gone; it starts within them, too."""
_PATIENCE = 60
"""Seconds for which a run on this machine waits for a SuperNode."""


@dataclass(frozen=True)
class FlowerLaunch:
    """A run whose folder a SuperLink and SuperNodes on this machine are started for."""

    run: Run
    data_dir: str | Path | None
    job: PlanJob | None = None
    """Of data that this process can read; None: participants have their own, and first have to say what it is like."""

    def carry_out(self, folder: RunFolder | None, listener: Listener, stop: Stop, tensorboard: bool) -> Outcome:
        """Start them, show how far they are, and take the result from the folder."""
        assert folder
        place = folder.path.resolve()
        where: dict[str, str | int] = {"data-dir": str(Path(self.data_dir).resolve())} if self.data_dir else {}
        nodes = [self._configuration(node, place) | where for node in range(self.run.nodes)]
        (place / "flower" / "error.json").unlink(missing_ok=True)  # of an earlier sitting
        job = self.job or self._job(folder)
        slots = self._announce(folder, job, listener) if job else None
        with Deployment(place / "flower", nodes) as deployment:
            deployment.submit({"run-dir": str(place), "quiet": 1, "patience": _PATIENCE, **where})
            wait = partial(self._wait, folder, deployment, listener, stop)
            if slots is None:
                wait(lambda: kept_accounts(folder.path / "flower") is not None)
                job = self._job(folder)
                assert job
                slots = self._announce(folder, job, listener)
            wait(lambda: folder.result() is not None)
        values = folder.result()
        assert values is not None
        return load_model(folder.path), values, Measured.of(slots, self.run.nodes).rows()

    def _configuration(self, node: int, place: Path) -> dict[str, str | int]:
        """Of a SuperNode."""
        configuration: dict[str, str | int] = {"partition-id": node, "folder": str(place / "participants")}
        name = self.run.dataset
        if name.startswith("hf:"):
            configuration["data"] = name
        elif name not in dataset_names():
            name = path_of(name, node) if self.run.has_own_data else name
            configuration["data"] = str(Path(name).expanduser().resolve())
        return configuration

    def _job(self, folder: RunFolder) -> PlanJob | None:
        """Of data that is the participants' own: as soon as the server knows what it is like."""
        accounts = kept_accounts(folder.path / "flower")
        return plan_job(self.run, nobodys(self.run, accounts), None) if accounts else None

    def _announce(self, folder: RunFolder, job: PlanJob, listener: Listener) -> Slots:
        plan = job.plan
        pipeline = Pipeline(self.run, plan, job.data, folder.path, nodes=())
        forecast = Forecast(self.run, plan, range(plan.nodes), job.data, pipeline.slots)
        listener(started(pipeline, Measured.of(pipeline.slots, plan.nodes), str(folder.path)))
        listener(PlanStarts(plan, forecast.before(), partial(_standings, folder.path)))
        return pipeline.slots

    def _wait(
        self,
        folder: RunFolder,
        deployment: Deployment,
        listener: Listener,
        stop: Stop,
        there: Callable[[], bool],
    ) -> None:
        """Until something is there. LayerlineError where it never will be; Stopped when asked to."""
        left, said, last = folder.path / "flower", 0, time.time()
        while not there():
            if (left / "error.json").exists():
                raise _error(left / "error.json")
            if stop.exit_status is not None:
                raise Stopped(
                    "training was stopped; finished slots are saved",
                    exit_status=stop.exit_status,
                    hint=f"go on with: layerline resume {folder.path}",
                )
            deployment.check()
            with suppress(OSError):
                last = max(last, (left / "alive").stat().st_mtime)
            if time.time() - last > _SILENCE_SECONDS:
                raise LayerlineError(
                    "the server of the run says nothing any more", hint=f"it wrote {left / 'superlink.log'}"
                )
            notes = _lines(left / "notes.txt")
            for words in notes[said:]:
                listener(Noted(words))
            said = len(notes)
            time.sleep(_SECONDS_BETWEEN)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _standings(folder: Path) -> dict[int, Standing]:
    """What the server last said of the nodes."""
    with suppress(OSError, ValueError, TypeError):
        told = json.loads((folder / "flower" / "standing.json").read_text(encoding="utf-8"))
        return {
            int(node): Standing(**fact | {"latest": Row(**fact["latest"]) if fact["latest"] else None})
            for node, fact in told.items()
        }
    return {}


def _error(path: Path) -> LayerlineError:
    """What the server gave up with."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        error = LayerlineError(said["error"], hint=said["hint"])
        error.exit_status = said["status"]
    except (OSError, ValueError, KeyError) as problem:
        return CheckpointError(f"{path} cannot be read: {problem}")
    return error
