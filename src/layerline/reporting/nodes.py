"""What a run over nodes shows while it trains, on standard error.

    on a terminal                                                              elsewhere
    pff-mnist · runs/pff-mnist/20260101-120000                                 the same header, then
    chapter 7/20  ━━━━━━━━━━━╸───────────  98/280 rows  2:41 left              one line per chapter
    node                                             busy  latest
    1     trains block 2, chapter 8, 54%              97%  block 4: 99.13 %
    2     waits for block 2, chapter 8, from node 1   91%  block 4: 98.97 %

Problem: the node that draws may be the one that waits, for minutes, and says nothing meanwhile; and drawing must not
cost training time. Solution: a thread of its own looks at what the nodes are about, a few times a second, and less
often where looking and drawing take more than a fiftieth of the time. The training loop does nothing for it.

Time left: how far the slowest node is in the simulated plan, and how much slower than simulated it came there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from threading import Event as Flag
from threading import Thread
from types import TracebackType
from typing import Self

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from layerline.events import Evaluated, Event, Noted, PlanStarts, Standing, Started
from layerline.reporting.console import block_numbers, heading, looked
from layerline.reporting.times import clock
from layerline.reporting.trace import slot_name
from layerline.schedules.plan import Action

SECONDS_BETWEEN = 0.4
SHARE = 0.02  # of the time may go into looking and drawing
MOST_LINES = 24
_VERBS = {Action.TRAIN: "trains", Action.FORWARD: "forwards through", Action.NEGATIVES: "ranks"}


class NodesDisplay:
    """A listener that shows a run over nodes; use it as a context manager around the training."""

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._quiet = quiet
        self._over = Flag()
        self._thread: Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        if self._thread:
            self._thread.join(5.0)  # it may wait for a store that is gone

    def __call__(self, event: Event) -> None:
        """Hear of an event; most are nothing to it."""
        if self._quiet:
            return
        if isinstance(event, Started):
            self._console.print(heading(event), soft_wrap=True)
        elif isinstance(event, PlanStarts):
            self._thread = Thread(target=self._show, args=(event,), name="display", daemon=True)
            self._thread.start()
        elif isinstance(event, Evaluated):
            self._say(looked(event))
        elif isinstance(event, Noted):
            self._say(event.words)

    def _say(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)

    def _show(self, start: PlanStarts) -> None:
        """The thread: look and draw until the training is over."""
        view = View(start)
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            with Live(console=self._console, auto_refresh=False, redirect_stdout=False) as live:
                self._repeat(start, view, lambda: live.update(view.picture(), refresh=True))
        else:
            self._repeat(start, view, lambda: self._say_chapter(view))

    def _repeat(self, start: PlanStarts, view: View, draw: Callable[[], None]) -> None:
        over = False
        while True:
            begin = time.monotonic()
            view.update(start.look())
            draw()
            if over or view.finished:
                return
            spent = time.monotonic() - begin
            over = self._over.wait(max(SECONDS_BETWEEN, spent / SHARE))

    def _say_chapter(self, view: View) -> None:
        line = view.chapter_line()
        if line:
            self._say(line)


class View:
    """What the nodes of `plan` are about, in words and pictures; `predicted` is the same plan in time."""

    def __init__(self, start: PlanStarts) -> None:
        self._plan, self._predicted = start.plan, start.predicted
        self._known: dict[int, Standing] = {}
        self._began, self._elapsed = time.monotonic(), 0.0
        self._first: float | None = None
        self._done = np.zeros(len(self._plan), dtype=bool)
        self._said = 0

    def update(self, known: Mapping[int, Standing]) -> None:
        """Take in how things stand."""
        self._known, self._elapsed = dict(known), time.monotonic() - self._began
        come = np.array([known[node].row if node in known else 0 for node in range(self._plan.nodes)])
        self._done = np.arange(len(self._plan)) < come[self._plan.node]
        if self._first is None and len(known) == self._plan.nodes:
            self._first, self._began, self._said = self._position(), time.monotonic(), self.chapters

    @property
    def finished(self) -> bool:
        """Whether all is done."""
        return bool(self._done.all())

    @property
    def chapters(self) -> int:
        """How many are trained."""
        plan = self._plan
        return int(plan.chapter[(plan.action == Action.TRAIN) & ~self._done].min(initial=plan.chapters))

    def chapter_line(self) -> str | None:
        """A line about the latest chapter; None where none was finished since the last one."""
        if self.chapters <= self._said:
            return None
        self._said = self.chapters
        latest = max((s.latest for s in self._known.values() if s.latest), key=lambda row: row.epoch, default=None)
        nodes = range(self._plan.nodes)
        busy = ", ".join(map(self._busy, nodes)) if len(nodes) <= 8 else f"{np.mean([*map(self._share, nodes)]):.0%}"
        parts = [f"chapter {self.chapters}/{self._plan.chapters}", *([block_numbers(latest)] if latest else [])]
        return " | ".join([*parts, f"nodes busy {busy}", self._left()])

    def picture(self) -> RenderableType:
        """How far all are, then a line a node."""
        plan, done = self._plan, int(self._done.sum())
        whole = Table.grid(padding=(0, 2), expand=True)
        for ratio in (None, 1, None, None):
            whole.add_column(ratio=ratio, no_wrap=True)
        chapter = min(self.chapters + 1, plan.chapters)
        bar = ProgressBar(total=len(plan), completed=done)
        whole.add_row(f"chapter {chapter}/{plan.chapters}", bar, f"{done:,}/{len(plan):,} rows", self._left())
        lines = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for name in ("node", "", "busy", "latest"):
            lines.add_column(name, justify="right" if name == "busy" else "left", no_wrap=True, min_width=len(name))
        for node in range(plan.nodes)[:MOST_LINES]:
            lines.add_row(*self._line(node))
        if plan.nodes > MOST_LINES:
            lines.add_row("…", f"and {plan.nodes - MOST_LINES} more")
        return Group(whole, lines)

    def _line(self, node: int) -> tuple[RenderableType, ...]:
        standing = self._known.get(node)
        what = Text(self._doing(node), style="dim" if standing is None or standing.waits else "")
        latest = standing.latest if standing else None
        numbers = f"{latest.what}: {100 * latest.accuracy:.2f} %" if latest else ""
        return str(node + 1), what, self._busy(node), Text(numbers, style="dim")

    def _doing(self, node: int) -> str:
        """`trains block 2, chapter 8`, or what it waits for."""
        plan, standing = self._plan, self._known.get(node)
        if standing is None:
            return "starts"
        if standing.row >= len(plan):
            return "has done its part"
        if not standing.waits:
            share = f", {standing.share:.0%}" if plan.action[standing.row] == Action.TRAIN else ""
            return f"{_VERBS[Action(plan.action[standing.row])]} {slot_name(plan, standing.row)}{share}"
        sources = [source for source, _ in plan.inputs(standing.row) if plan.node[source] != node]
        missing = [source for source in sources if not self._done[source]]
        if missing:
            return f"waits for {slot_name(plan, missing[0])}, from node {plan.node[missing[0]] + 1}"
        if sources and self._predicted.plan.nodes == plan.nodes:
            return f"receives {slot_name(plan, sources[-1])}"
        return "waits for its turn"

    def _share(self, node: int) -> float:
        standing = self._known.get(node)
        return min(1.0, standing.busy / self._elapsed) if standing and self._elapsed else 0.0

    def _busy(self, node: int) -> str:
        return f"{self._share(node):.0%}"

    def _position(self) -> float:
        """Where in the simulated plan the node is that is furthest behind, in its seconds."""
        found, rows = self._predicted, len(self._plan)
        here = [s for s in self._known.values() if s.row < rows]
        seconds = [found.start[s.row] + (0.0 if s.waits else s.share * found.seconds[s.row]) for s in here]
        return float(min(seconds, default=found.makespan if self._known else 0.0))

    def _left(self) -> str:
        """Time left, should it go on like this."""
        if self.finished:
            return "done"
        position, makespan = self._position(), self._predicted.makespan
        come = position - (self._first or 0.0)
        if self._first is None or come < 0.01 * makespan or self._elapsed < 1.0:
            return "-:-- left"
        return f"{clock((makespan - position) * self._elapsed / come)} left"
