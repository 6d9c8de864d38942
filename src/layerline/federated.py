"""A federated run on Flower, from the command line to its result.

layerline train … --engine flower      starts a SuperLink and SuperNodes here, hands the run in, and shows it
the server, in a process of Flower's   the plan, task by task; leaves everything in the run's folder
`flwr run`                             hands the same app in to a deployment elsewhere; the server makes the folder
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

from layerline.data.dataset import Dataset
from layerline.errors import CheckpointError, LayerlineError, Stopped
from layerline.events import Listener, Noted, PlanStarts, Row, Standing
from layerline.files import write_text
from layerline.planned import Outcome, PlanJob, plan_job
from layerline.presets.presets import preset
from layerline.reporting.nodes import NodesDisplay
from layerline.reporting.run_folder import RunFolder
from layerline.run import Run
from layerline.runtime.flower.conductor import Conductor
from layerline.runtime.flower.federation import Federation, Link
from layerline.runtime.flower.local import Deployment, check_flower
from layerline.runtime.flower.participant import finished_model
from layerline.runtime.forecast import Forecast
from layerline.runtime.judging import Judged
from layerline.runtime.members import join_seconds
from layerline.runtime.pipeline import Measured, Pipeline
from layerline.runtime.saved import load_model
from layerline.runtime.slots import Slots
from layerline.runtime.stop import Stop
from layerline.runtime.threads import compute_threads
from layerline.runtime.together import Trained, started
from layerline.schedules.plan import Plan
from layerline.sets import load_set
from layerline.transport.codecs import Int8

_SECONDS_BETWEEN = 0.2
_ALIVE_SECONDS = 5.0
_SILENCE_SECONDS = 120.0
"""After which the server is gone; it starts within them, too."""
_PATIENCE = 60
"""Seconds for which a run on this machine waits for a SuperNode."""


# The server --------------------------------------------------------------------------------------------------------


def serve(link: Link, settings: Mapping[str, Any]) -> None:
    """The server of a run: what `settings` (of the app) name, to its end.

    `run-dir`: the folder of a run, to go on with; else `preset` starts a new one in `out-dir`. `data-dir`: where data
    sets lie here; `patience`: seconds to wait for SuperNodes. An error is left in the folder, too.
    """
    data_dir = str(settings.get("data-dir") or "") or None
    folder = _folder(settings)
    left = folder.path / "flower"
    (left / "error.json").unlink(missing_ok=True)
    try:
        run = folder.run()
        assert isinstance(run, Run)
        check_flower(run)
        data = load_set(run, data_dir=data_dir)
        assert isinstance(data, Dataset)
        job = plan_job(run, data.hold_out() if run.validation else data, None)
        patience = float(settings.get("patience") or join_seconds())
        Server(job, folder, link, patience, quiet=bool(settings.get("quiet"))).serve()
    except LayerlineError as error:
        said = {"error": error.what, "hint": error.hint, "status": error.exit_status}
        write_text(left / "error.json", json.dumps(said) + "\n")
        raise


def _folder(settings: Mapping[str, Any]) -> RunFolder:
    where = str(settings.get("run-dir") or settings.get("out-dir") or "")
    if where and (Path(where) / "config.toml").exists():
        return RunFolder.open(Path(where))
    name = str(settings.get("preset") or "federated-digits")
    run = preset(name).run
    settled = run.replace(**run.settled, threads=run.threads or 1, device="cpu")
    return RunFolder.create(settled, Path(where) if where else None)


@dataclass(frozen=True)
class Server:
    """Carries a job out over a link."""

    job: PlanJob
    folder: RunFolder
    link: Link
    patience: float
    quiet: bool = False

    def serve(self) -> None:
        """To its end. LayerlineError as participants refuse, or are missing for too long."""
        run, plan, data = self.job.run, self.job.plan, self.job.data
        with ExitStack() as stack:
            stack.enter_context(self.folder.alone())
            stack.enter_context(_alive(self.folder.path / "flower"))
            stack.enter_context(compute_threads(run))
            display = stack.enter_context(NodesDisplay(quiet=self.quiet))
            heard = stack.enter_context(self.folder.listening(display))
            pipeline = Pipeline(run, plan, data, self.folder.path, nodes=())
            before = Measured.of(pipeline.slots, plan.nodes)
            forecast = Forecast(run, plan, range(plan.nodes), data, pipeline.slots)
            differences = isinstance(run.codec, Int8)
            conductor = Conductor(plan, pipeline.slots, sitting=before.sittings, differences=differences)
            heard(started(pipeline, before, str(self.folder.path)))
            heard(PlanStarts(plan, forecast.before(), conductor.standings))
            federation = Federation(
                link=self.link,
                conductor=conductor,
                run=run.to_toml(),
                name=self._name(),
                join=max(self.patience, join_seconds()),
                patience=self.patience,
                note=partial(self._note, heard),
                heed=lambda: None,
            )
            self._tell(conductor)
            federation.carry_out(lambda: self._tell(conductor))
            model = finished_model(pipeline, conductor.plan, conductor.final())
            judged = federation.judge()
            trained = Trained(pipeline, model, Measured.of(pipeline.slots, plan.nodes), forecast, {})
            self.job.finish(trained, self.folder, heard, Stop(), self._more(conductor, judged))

    def _name(self) -> str:
        """Of the run, by which participants find what they did for it; made once."""
        path = self.folder.path / "flower" / "name"
        if not path.exists():
            write_text(path, f"{self.job.run.preset}-{uuid.uuid4().hex}")
        return path.read_text(encoding="utf-8")

    def _note(self, heard: Listener, words: str) -> None:
        heard(Noted(words))
        with (self.folder.path / "flower" / "notes.txt").open("a", encoding="utf-8") as file:
            file.write(words + "\n")

    def _tell(self, conductor: Conductor) -> None:
        """How things stand, for whoever looks at the folder."""
        standings = {node: asdict(standing) for node, standing in conductor.standings().items()}
        write_text(self.folder.path / "flower" / "standing.json", json.dumps(standings))

    def _more(self, conductor: Conductor, judged: Judged) -> dict[str, Any]:
        """For `result.json`: what each participant sent, received, and finds on the examples it holds."""
        readout, nodes = self.job.run.readout.kind, range(self.job.plan.nodes)
        found = [judged.get(node, (0, {})) for node in nodes]
        return {
            "engine": "flower",
            "bytes_up": conductor.traffic.up,
            "bytes_down": conductor.traffic.down,
            "participant_examples": [examples for examples, _ in found],
            "participant_accuracies": [readouts.get(readout) for _, readouts in found],
        }


# Here, on this machine ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FlowerLaunch:
    """A run whose folder a SuperLink and SuperNodes on this machine are started for."""

    job: PlanJob
    data_dir: str | Path | None

    @property
    def run(self) -> Run:
        """What is trained."""
        return self.job.run

    def carry_out(self, folder: RunFolder | None, listener: Listener, stop: Stop, tensorboard: bool) -> Outcome:
        """Start them, show how far they are, and take the result from the folder."""
        assert folder
        plan, place = self.job.plan, folder.path.resolve()
        where = {"data-dir": str(Path(self.data_dir).resolve())} if self.data_dir else {}
        slots = self._announce(folder, plan, listener)
        nodes: list[dict[str, str | int]] = [
            {"partition-id": node, "folder": str(place / "participants"), **where} for node in range(plan.nodes)
        ]
        with Deployment(place / "flower", nodes) as deployment:
            deployment.submit({"run-dir": str(place), "quiet": 1, "patience": _PATIENCE, **where})
            self._wait(folder, deployment, listener, stop)
        values = folder.result()
        assert values is not None
        return load_model(folder.path), values, Measured.of(slots, plan.nodes).rows()

    def _announce(self, folder: RunFolder, plan: Plan, listener: Listener) -> Slots:
        pipeline = Pipeline(self.run, plan, self.job.data, folder.path, nodes=())
        forecast = Forecast(self.run, plan, range(plan.nodes), self.job.data, pipeline.slots)
        listener(started(pipeline, Measured.of(pipeline.slots, plan.nodes), str(folder.path)))
        listener(PlanStarts(plan, forecast.before(), partial(_standings, folder.path)))
        return pipeline.slots

    def _wait(self, folder: RunFolder, deployment: Deployment, listener: Listener, stop: Stop) -> None:
        """Until there is a result. LayerlineError where there will be none; Stopped when asked to."""
        left, said, last = folder.path / "flower", 0, time.time()
        while folder.result() is None:
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


@contextmanager
def _alive(folder: Path) -> Iterator[None]:
    """A thread that says so in a file, every few seconds."""
    over = Event()

    def say() -> None:
        while not over.wait(_ALIVE_SECONDS):
            (folder / "alive").touch()

    folder.mkdir(exist_ok=True)
    (folder / "alive").touch()
    thread = Thread(target=say, name="alive", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


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
