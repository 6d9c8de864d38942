"""The folder of a run: everything it leaves behind, in one place that is never overwritten.

    runs/<preset>/<time>/
        config.toml     the Run, everything decided                 at the start
        env.json        versions and machine                        at the start
        metrics.csv     per epoch and block                         while training
        checkpoints/    the state to go on from                     while training (written by the runtime)
        tensorboard/    the same numbers for TensorBoard            while training, where asked for
        order.npy       of blocks that run freely: who takes what     at the start
        slots/          of a run over nodes: what is finished       while training (written by the runtime)
        flower/         of a run on Flower: the server's table      while training (written by the runtime)
        trace.json      of a run over nodes: what each did when     at the end
        gantt.svg       measured above planned                      at the end, where matplotlib is installed
        result.json     accuracies, time, digest of the weights     at the end
        beside/         FedAvg, trained for comparison: run folders  after that, where asked for
        model/          weights, what they need, a model card       at the end

Two runs started at the same moment must not share a folder. Making a folder either succeeds or says that it was there,
for one process only: so it is the lock, for the folder of the run as for `checkpoints/` in it.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerline.errors import CheckpointError, LayerlineError, UsageError
from layerline.events import EpochDone, Event, Listener, Minibatch, Row, Started
from layerline.files import alone_in, cannot_write, sweep, write_text
from layerline.reporting.environment import describe
from layerline.reporting.metrics import Metrics, write_metrics
from layerline.reporting.model_card import model_card
from layerline.reporting.tensorboard import Board
from layerline.runs import AnyRun, from_toml


def default_out_dir(preset: str) -> Path:
    """A new, empty folder `runs/<preset>/<time>` below the current one, with `-2`, `-3` … if the second is taken.

    It is made at once, so that nobody else gets it. LayerlineError where it cannot be made.
    """
    name = re.sub(r"[^\w.-]+", "-", preset).lstrip(".-") or "custom"
    parent, second = Path("runs") / name, time.strftime("%Y%m%d-%H%M%S")
    count = 1
    while True:
        path = parent / (second if count == 1 else f"{second}-{count}")
        if _make(path):
            return path
        count += 1


@dataclass(frozen=True)
class RunFolder:
    """A run's folder on disk."""

    path: Path

    @staticmethod
    def create(run: AnyRun, out_dir: Path | None = None) -> RunFolder:
        """A folder for a new run, with its settings and its environment; None: `default_out_dir`.

        UsageError if there is something in `out_dir` already, LayerlineError if it cannot be written.
        """
        folder = RunFolder(default_out_dir(run.preset) if out_dir is None else out_dir)
        if not _make(folder.path):
            folder._refuse_if_used()
        if not _make(folder.checkpoints):
            raise _used(folder.path)
        write_text(folder.path / "config.toml", run.to_toml())
        write_text(folder.path / "env.json", _json(describe(threads=run.threads)))
        return folder

    @staticmethod
    def open(path: Path) -> RunFolder:
        """The folder of a run that was started before. UsageError if `path` is none."""
        if (path / "model.json").is_file():
            raise UsageError(f"{path} is the model of a run", hint=f"name the run's folder: {path.parent}")
        if not (path / "config.toml").is_file():
            what = f"{path} is no run folder: it has no config.toml" if path.exists() else f"there is no folder {path}"
            raise UsageError(what, hint=_a_run_folder())
        return RunFolder(path)

    @property
    def checkpoints(self) -> Path:
        """Where the runtime keeps the state to go on from."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """Where the trained model goes."""
        return self.path / "model"

    @property
    def order(self) -> Path:
        """The order of events of blocks that run freely."""
        return self.path / "order.npy"

    def run(self) -> AnyRun:
        """The run, as it was resolved at the start."""
        return from_toml(self.path / "config.toml")

    def result(self) -> dict[str, Any] | None:
        """The content of `result.json`; None while the run is not finished."""
        path = self.path / "result.json"
        if not path.exists():
            return None
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            hint = f"write it again from the last checkpoint: layerline resume {self.path}"
            raise CheckpointError(f"{path} cannot be read: {error}", hint=hint) from None
        return values

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Holds the folder while something is written to it. UsageError where another process holds it.

        Errors that come up meanwhile call the folder by its name where they say RUN_DIR.
        """
        with alone_in(self.path):
            try:
                yield
            except LayerlineError as error:
                if error.hint:
                    error.hint = error.hint.replace("RUN_DIR", shlex.quote(str(self.path)))
                raise

    @contextmanager
    def listening(self, listener: Listener, *, tensorboard: bool = False) -> Iterator[Listener]:
        """A listener that keeps `metrics.csv` (and TensorBoard's folder) current and passes every event on."""
        metrics = Metrics(self.path / "metrics.csv")
        board = Board(self.path / "tensorboard") if tensorboard else None

        def hear(event: Event) -> None:
            if not isinstance(event, Minibatch):  # there may be thousands of those a second
                if isinstance(event, Started):
                    metrics.start(event.rows)
                elif isinstance(event, EpochDone):
                    metrics.add(event.rows)
                if board:
                    board(event)
            listener(event)

        try:
            yield hear
        finally:
            metrics.close()
            if board:
                board.close()

    def write_result(self, values: dict[str, Any], rows: list[Row]) -> None:
        """What a finished run says: `metrics.csv` whole, the model card, and `result.json` last of all.

        What killed processes left half written goes before.
        """
        write_metrics(self.path / "metrics.csv", rows)
        for folder in (self.path, self.model, self.checkpoints):
            sweep(folder)
        self.rewrite_result(values)

    def rewrite_result(self, values: dict[str, Any]) -> None:
        """The model card and `result.json` alone, for what is found out when the run is finished."""
        write_text(self.model / "README.md", model_card(self.run(), values, self.path, self._about_model()))
        write_text(self.path / "result.json", _json(values))

    def _about_model(self) -> dict[str, Any]:
        """`model.json`, which the model was saved with; empty if there is none."""
        try:
            about: dict[str, Any] = json.loads((self.model / "model.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return about

    def _refuse_if_used(self) -> None:
        if not self.path.is_dir():
            raise UsageError(f"{self.path} is a file", hint="choose another folder: --out-dir FOLDER")
        try:
            used = any(self.path.iterdir())
        except OSError as error:
            raise cannot_write(self.path, error) from None
        if used:
            raise _used(self.path)


def _make(path: Path) -> bool:
    """Make a folder; False if there was something of this name. LayerlineError where that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir()
    except OSError as error:
        if isinstance(error, FileExistsError) and path.exists():
            return False
        raise cannot_write(path, error) from None
    return True


def _used(path: Path) -> UsageError:
    resumable = (path / "config.toml").is_file()
    go_on = f", or go on with the run in it: layerline resume {path}" if resumable else ""
    return UsageError(
        f"{path} is not empty, and a run is never overwritten", hint=f"choose another folder: --out-dir FOLDER{go_on}"
    )


def _a_run_folder() -> str:
    """Where runs are: the latest one below the current folder, if there is one."""
    configs = sorted(Path("runs").glob("*/*/config.toml"), key=lambda path: path.stat().st_mtime)
    return f"the latest run here is {configs[-1].parent}" if configs else "start a run with: layerline train digits"


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"
