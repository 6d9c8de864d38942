"""What a run shows while it trains, on standard error; standard output stays free for results.

    on a terminal                                                          elsewhere
    digits · runs/digits/20260101-120000                                   the same header, then
    epoch 3/8 · all blocks  ━━━━━━━━╸─────── 702/1,880  0:41 left          one line per epoch
    test accuracy 97.83 % after epoch 2
    block   epoch   loss    accuracy   goodness +   goodness −
    1           2   0.123    98.10 %        1.234        0.456

Problem: a small network trains thousands of minibatches a second, and drawing takes milliseconds; a thread that draws
would take the interpreter away from training.

Solution: a minibatch is counted, nothing more, and a few times a second the same call draws. It is called between two
minibatches, so drawing is not training time; and where drawing is slow, it happens less often.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from layerline.events import EpochDone, Evaluated, Event, Minibatch, Row, Started
from layerline.reporting.times import clock

_SECONDS_BETWEEN = 1 / 8
_SHARE = 0.02  # of the time may go into drawing, however slow the terminal is


class Display:
    """A listener that shows a run; use it as a context manager around the training. `quiet`: it shows nothing."""

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._quiet = quiet
        self._live: Live | None = None
        self._started = Started("", "", 0, 0, 0, [])
        self._done = 0
        self._latest: Minibatch | None = None
        self._epoch, self._what = 1, ""
        self._rows: dict[str, Row] = {}
        self._look: Evaluated | None = None
        self._begin = time.monotonic()
        self._due = math.inf

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live:
            self._draw()
            self._live.stop()
            self._live, self._due = None, math.inf

    def __call__(self, event: Event) -> None:
        if isinstance(event, Minibatch):
            self._done += 1
            self._latest = event
            if time.monotonic() >= self._due:
                self._draw()
        elif not self._quiet:
            self._hear(event)

    def _hear(self, event: Event) -> None:
        if isinstance(event, Started):
            self._start(event)
        elif isinstance(event, EpochDone):
            self._done += 1
            self._epoch = event.epoch
            self._what = "all blocks" if len(event.rows) > 1 else event.rows[0].what
            self._latest = None
            self._rows |= {row.block: row for row in event.rows}
            if self._live is None:
                numbers = " | ".join(map(block_numbers, event.rows))
                self._say(f"epoch {event.epoch}/{self._started.epochs} | {numbers} | {self._left()}")
        elif isinstance(event, Evaluated):
            self._look = event
            if self._live is None:
                self._say(looked(event))
        if self._live:
            self._draw()

    def _start(self, event: Started) -> None:
        self._started, self._done, self._begin = event, event.done, time.monotonic()
        self._rows = {row.block: row for row in event.rows}
        self._epoch = event.rows[-1].epoch if event.rows else 1
        self._console.print(heading(event), soft_wrap=True)
        if event.done:
            self._say(f"going on after {event.done:,} of {event.total:,} minibatches")
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False)
            self._live.start()
            self._due = 0.0

    def _say(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)

    def _draw(self) -> None:
        if self._live:
            begin = time.monotonic()
            self._live.update(self._picture(), refresh=True)
            end = time.monotonic()
            self._due = end + max(_SECONDS_BETWEEN, (end - begin) / _SHARE)

    def _picture(self) -> RenderableType:
        if self._latest:
            self._epoch, self._what = self._latest.epoch, self._latest.what
        progress = Table.grid(padding=(0, 2), expand=True)
        for ratio in (None, 1, None, None):
            progress.add_column(ratio=ratio, no_wrap=True)
        done, total = self._so_far(), self._started.total
        bar = ProgressBar(total=max(1, total), completed=done)
        progress.add_row(self._where(), bar, f"{done:,}/{total:,}", self._left())
        parts: list[RenderableType] = [progress, *self._below()]
        if self._look:
            parts.append(Text(looked(self._look), style="bold"))
        if self._rows:
            parts.append(_table(list(self._rows.values())))
        return Group(*parts)

    def _below(self) -> Sequence[RenderableType]:
        """What stands under the line of the epoch."""
        return ()

    def _where(self) -> str:
        return f"epoch {self._epoch}/{self._started.epochs}" + (f" · {self._what}" if self._what else "")

    def _so_far(self) -> int:
        """Minibatches that are done."""
        return self._done

    def _left(self) -> str:
        """Time left, should it go on like this."""
        new, left = self._done - self._started.done, self._started.total - self._done
        elapsed = time.monotonic() - self._begin
        if left <= 0:
            return "done"
        return f"{clock(elapsed / new * left)} left" if new and elapsed > 0.5 else "-:-- left"


def heading(event: Started) -> Text:
    """Of a run: its name and folder."""
    header = Text(event.preset, style="bold")
    if event.run_dir:
        header.append(f" · {event.run_dir}", style="not bold")
    return header


def looked(look: Evaluated) -> str:
    """`test accuracy 97.83 % after epoch 2`; of a text `validation 2.3 bits per character, accuracy 52.10 % …`."""
    if look.bits is not None:
        bits = f"{look.bits:.3f} bits per character"
        return f"{look.split} {bits}, accuracy {100 * look.accuracy:.2f} % after epoch {look.epoch}"
    return f"{look.split} accuracy {100 * look.accuracy:.2f} % after epoch {look.epoch}"


def block_numbers(row: Row) -> str:
    """`block 2: loss 0.123, accuracy 98.10 %`."""
    return f"{row.what}: loss {row.loss:.4g}, accuracy {100 * row.accuracy:.2f} %"


def _table(rows: list[Row]) -> Table:
    """One line per block with its latest numbers."""
    goodness = any(row.goodness_positive is not None for row in rows)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("block")
    for column in ("epoch", "loss", "accuracy", *(("goodness +", "goodness −") if goodness else ())):
        table.add_column(column, justify="right")
    for row in rows:
        cells = [row.block, str(row.epoch), f"{row.loss:.4g}", f"{100 * row.accuracy:.2f} %"]
        if goodness:
            cells += ["" if g is None else f"{g:.4g}" for g in (row.goodness_positive, row.goodness_negative)]
        table.add_row(*cells)
    return table
