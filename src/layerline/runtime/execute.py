"""Driving a trainer: the clock, the checkpoints, the looks at held-out data, and stopping on request."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from layerline.data.text_set import AnySet, TextSet, Windows
from layerline.errors import LayerlineError, Stopped
from layerline.events import EpochDone, Evaluated, Event, Listener, Row, Saved
from layerline.runtime.chapters import ChapterTrainer
from layerline.runtime.checkpoint import Checkpoints, Progress, misfit
from layerline.runtime.model import Model
from layerline.runtime.simultaneous import SimultaneousTrainer
from layerline.runtime.stop import Stop
from layerline.runtime.stream.free import FreeTrainer
from layerline.runtime.stream.model import StreamModel
from layerline.runtime.stream.trainer import StreamTrainer
from layerline.runtime.trainer import Trainer
from layerline.runtime.training import BaseTrainer
from layerline.schedules.timing import Sync

AnyTrainer = Trainer | StreamTrainer


def make_trainer(model: Model | StreamModel, data: AnySet) -> AnyTrainer:
    """The trainer of a model's family, and of its run's order."""
    if isinstance(model, StreamModel):
        return (StreamTrainer if isinstance(model.run.timing, Sync) else FreeTrainer)(model, data)
    assert not isinstance(data, TextSet)
    kind = SimultaneousTrainer if model.run.order == "simultaneous" else ChapterTrainer
    return kind(model, data)


def refuse_divergence(rows: list[Row], lr: float) -> None:
    """LayerlineError when a loss is no number any more."""
    lost = next((row for row in rows if not math.isfinite(row.loss)), None)
    if lost:
        raise LayerlineError(
            f"training diverged: the loss of {lost.what} is {lost.loss} in epoch {lost.epoch}",
            hint=f"choose a smaller learning rate than {lr:g}: --lr",
        )


class Execution:
    """One training from its last checkpoint (or the start) to its end."""

    def __init__(
        self, trainer: BaseTrainer, data: AnySet, checkpoints: Checkpoints | None, listener: Listener, stop: Stop
    ) -> None:
        self.trainer, self.data, self.checkpoints = trainer, data, checkpoints
        self.listener, self.stop = listener, stop
        self.progress = Progress()
        self._saved_at = time.monotonic()

    def restore(self) -> None:
        """Go back to the last checkpoint, if there is one."""
        found = self.checkpoints.load(self.trainer.device) if self.checkpoints else None
        if found is None:
            return
        tensors, cursor, self.progress = found
        try:
            self.trainer.load(tensors, cursor)
        except (KeyError, RuntimeError) as error:
            raise misfit(error) from None

    def run(self) -> Progress:
        """Train to the end, where the state is saved, too.

        Stopped (after saving) when asked to; LayerlineError when a loss is no number any more.
        """
        for event in self._timed(self.trainer.train()):
            if isinstance(event, EpochDone):
                self.progress.rows += event.rows
            self.listener(event)
            if isinstance(event, EpochDone):
                refuse_divergence(event.rows, self.trainer.base_lr)
                self._look(event.epoch)
            if self.stop.exit_status is not None:
                self._save()
                raise self._stopped(self.stop.exit_status)
            if time.monotonic() - self._saved_at >= self.trainer.run.checkpoint_seconds:
                self._save()
        self._save()
        return self.progress

    def heed(self) -> None:
        """Stopped when asked to, for the time after training: all of it is saved, what is left can be done again."""
        if self.stop.exit_status is None:
            return
        what = "training is finished; its evaluation was stopped"
        if self.checkpoints is None:
            raise Stopped(f"{what}, and nothing was saved", exit_status=self.stop.exit_status)
        raise Stopped(what, exit_status=self.stop.exit_status, hint=self._go_on())

    def _timed(self, events: Iterator[Event]) -> Iterator[Event]:
        """The same events; only the time inside the trainer counts as training."""
        while True:
            begin = time.perf_counter()
            event = next(events, None)
            if torch.cuda.is_available() and isinstance(event, EpochDone | None):
                torch.cuda.synchronize()
            self.progress.train_seconds += time.perf_counter() - begin
            if event is None:
                return
            yield event

    def _look(self, epoch: int) -> None:
        """Measure the accuracy on held-out data, where the run asks for it and all blocks are equally far."""
        run, model, held_out = self.trainer.run, self.trainer.model, self.data.test
        due = run.eval_every and epoch % run.eval_every == 0
        if not (due and self.trainer.comparable and held_out):
            return
        split = "validation" if run.validation or isinstance(self.data, TextSet) else "test"
        bits = None
        if isinstance(model, StreamModel) and isinstance(held_out, Windows):
            bits = model.bits(held_out, model.available_readouts()[:1])["last"]
        look = Evaluated(epoch, split, model.accuracy(held_out), self.progress.train_seconds, bits)
        self.progress.curve.append(look)
        self.listener(look)

    def _save(self) -> None:
        if self.checkpoints is None:
            return
        trainer = self.trainer
        path = self.checkpoints.save(trainer.tensors(), trainer.cursor, self.progress, trainer.steps_done)
        self._saved_at = time.monotonic()
        self.listener(Saved(str(path)))

    def _stopped(self, exit_status: int) -> Stopped:
        if self.checkpoints is None:
            return Stopped("training was stopped; nothing was saved", exit_status=exit_status)
        return Stopped(
            f"training was stopped and saved after {self.trainer.steps_done:,} of {self.trainer.steps:,} minibatches",
            exit_status=exit_status,
            hint=self._go_on(),
        )

    def _go_on(self) -> str:
        assert self.checkpoints is not None
        folder: Path = self.checkpoints.folder.parent
        return f"go on with: layerline resume {folder}"
