"""The server of a federated run on Flower, in a process of Flower's: the plan, task by task, and the run's folder.

Whoever started the run, here or elsewhere, looks at `flower/` in the folder for how it goes:

    alive            touched every few seconds
    accounts.json    what participants told of data of their own
    standing.json    how far every node is
    notes.txt        what a person should know
    error.json       what it gave up with
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

from layerline.data.dataset import Dataset
from layerline.data.own import OwnData
from layerline.errors import LayerlineError
from layerline.events import Listener, Noted, PlanStarts
from layerline.files import write_text
from layerline.planned import PlanJob, plan_job
from layerline.presets.presets import preset
from layerline.reporting.nodes import NodesDisplay
from layerline.reporting.run_folder import RunFolder
from layerline.run import Run
from layerline.runtime.flower.budget import releases
from layerline.runtime.flower.conductor import Conductor
from layerline.runtime.flower.federation import Federation, Link
from layerline.runtime.flower.local import check_flower
from layerline.runtime.flower.own import ask_accounts, kept_accounts, nobodys, to_text
from layerline.runtime.flower.participant import finished_model
from layerline.runtime.forecast import Forecast
from layerline.runtime.judging import Judged
from layerline.runtime.members import join_seconds
from layerline.runtime.pipeline import Measured, Pipeline
from layerline.runtime.stop import Stop
from layerline.runtime.threads import compute_threads
from layerline.runtime.together import Trained, started
from layerline.sets import load_set
from layerline.transport.codecs import Int8
from layerline.transport.privacy import LocalDp

_ALIVE_SECONDS = 5.0


def serve(link: Link, settings: Mapping[str, Any]) -> None:
    """The server of a run: what `settings` (of the app) name, to its end.

    `run-dir`: the folder of a run, to go on with; else `preset` (a name, or a run as a TOML file) starts a new one in
    `out-dir`. `data-dir`: where data sets lie here; `patience`: seconds to wait for SuperNodes. An error is left in the
    folder, too.
    """
    data_dir = str(settings.get("data-dir") or "") or None
    folder = _folder(settings)
    left = folder.path / "flower"
    (left / "error.json").unlink(missing_ok=True)
    try:
        run = folder.run()
        assert isinstance(run, Run)
        check_flower(run)
        patience = float(settings.get("patience") or join_seconds())
        job = plan_job(run, _data(run, left, link, patience, data_dir), None)
        Server(job, folder, link, patience, quiet=bool(settings.get("quiet"))).serve()
    except LayerlineError as error:
        _give_up(left, error)
        raise
    except Exception as error:  # whatever it is, whoever waits has to hear of it
        hint = f"Flower's log of the server says more, on this machine {left / 'superlink.log'}"
        _give_up(left, LayerlineError(f"the server failed: {type(error).__name__}: {error}", hint=hint))
        raise


def _data(run: Run, left: Path, link: Link, patience: float, data_dir: str | None) -> Dataset | OwnData:
    """What the run learns from: a set that all can read, or what participants say of their own; asked for once."""
    if run.has_own_data:
        with _alive(left):
            accounts = kept_accounts(left) or ask_accounts(link, run, max(patience, join_seconds()))
        known = nobodys(run, accounts)
        write_text(left / "accounts.json", to_text(accounts) + "\n")
        return known
    data = load_set(run, data_dir=data_dir)
    assert isinstance(data, Dataset)
    return data.hold_out() if run.validation else data


def _give_up(left: Path, error: LayerlineError) -> None:
    said = {"error": error.what, "hint": error.hint, "status": error.exit_status}
    left.mkdir(exist_ok=True)
    write_text(left / "error.json", json.dumps(said) + "\n")


def _folder(settings: Mapping[str, Any]) -> RunFolder:
    where = str(settings.get("run-dir") or settings.get("out-dir") or "")
    if where and (Path(where) / "config.toml").exists():
        return RunFolder.open(Path(where))
    name = str(settings.get("preset") or "federated-digits")
    run = Run.from_toml(name) if name.endswith(".toml") else preset(name).run
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
                accounts=to_text(data.accounts) if isinstance(data, OwnData) else "",
            )
            if not before.sittings:
                self._note_privacy(heard)
            self._tell(conductor)
            federation.carry_out(lambda: self._tell(conductor))
            model = finished_model(pipeline, conductor.plan, conductor.final())
            judged: Judged = {node: (0, {}) for node in range(plan.nodes)} | federation.judge()
            measured = Measured.of(pipeline.slots, plan.nodes)
            trained = Trained(pipeline, model, measured, forecast, judged if run.has_own_data else {})
            self.job.finish(trained, self.folder, heard, Stop(), self._more(conductor, judged))

    def _name(self) -> str:
        """Of the run, by which participants find what they did for it; made once."""
        path = self.folder.path / "flower" / "name"
        if not path.exists():
            write_text(path, f"{self.job.run.preset}-{uuid.uuid4().hex}")
        return path.read_text(encoding="utf-8")

    def _note_privacy(self, heard: Listener) -> None:
        privacy, most = self.job.run.privacy, max(releases(self.job.plan))
        if isinstance(privacy, LocalDp):
            together = f"({most * privacy.epsilon:g}, {most * privacy.delta:g})"
            self._note(heard, f"a participant sends up to {most} blocks with noise: {together}-private together")

    def _note(self, heard: Listener, words: str) -> None:
        heard(Noted(words))
        with (self.folder.path / "flower" / "notes.txt").open("a", encoding="utf-8") as file:
            file.write(words + "\n")

    def _tell(self, conductor: Conductor) -> None:
        """How things stand, for whoever looks at the folder."""
        standings = {node: asdict(standing) for node, standing in conductor.standings().items()}
        write_text(self.folder.path / "flower" / "standing.json", json.dumps(standings))

    def _more(self, conductor: Conductor, judged: Judged) -> dict[str, Any]:
        """For `result.json`: what each participant sent, received, and finds on the examples it holds.

        Of those with data of their own, what they find is said as of any nodes with such data.
        """
        traffic = conductor.traffic
        more: dict[str, Any] = {"engine": "flower", "bytes_up": traffic.up, "bytes_down": traffic.down}
        if isinstance(privacy := self.job.run.privacy, LocalDp):
            more["epsilons"] = [count * privacy.epsilon for count in releases(self.job.plan)]
            more["deltas"] = [count * privacy.delta for count in releases(self.job.plan)]
        if self.job.run.has_own_data:
            return more
        readout, found = self.job.run.readout.kind, [judged[node] for node in range(self.job.plan.nodes)]
        return more | {
            "participant_examples": [examples for examples, _ in found],
            "participant_accuracies": [readouts.get(readout) for _, readouts in found],
        }


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
