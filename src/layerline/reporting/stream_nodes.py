"""What a stream over nodes shows while it trains, on standard error; elsewhere than on a terminal, a line an epoch.

    epoch 3/8 · all blocks  ━━━━━━━━╸─────── 702/1,880  0:41 left
    node  blocks  minibatch   busy
    1     1–2     703/1,880    97%  forward, block 2
    2     3       702/1,880    91%  waits for node 1
    3     4       700/1,880    88%  backward, block 4
    test accuracy …

As with any run over nodes (`nodes`), a thread looks and draws a few times a second; the training loop no longer does.

Time left: of the node that needs most, should each go on as fast as it has come.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from threading import Event as Flag
from threading import Lock, Thread
from types import TracebackType

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from layerline.events import Event, NodeStanding, StreamStarts
from layerline.reporting.console import Display
from layerline.reporting.nodes import MOST_LINES, SECONDS_BETWEEN, SHARE
from layerline.reporting.times import clock
from layerline.schedules.plan import Action


class StreamDisplay(Display):
    """A listener that shows a stream over nodes; use it as a context manager around the training."""

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        super().__init__(quiet=quiet, console=console)
        self._view: StreamView | None = None
        self._over, self._drawing = Flag(), Lock()
        self._thread: Thread | None = None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        if self._thread:
            self._thread.join(5.0)  # it may wait for a store that is gone
        super().__exit__(kind, error, at)

    def _hear(self, event: Event) -> None:
        if isinstance(event, StreamStarts) and self._live:
            self._view = StreamView(event)
            self._thread = Thread(target=self._watch, args=(self._view,), name="display", daemon=True)
            self._thread.start()
        else:
            super()._hear(event)

    def _watch(self, view: StreamView) -> None:
        """The thread: look and draw until the training is over."""
        over = False
        while True:
            begin = time.monotonic()
            view.update()
            self._draw()
            if over or view.finished:
                return
            spent = time.monotonic() - begin
            over = self._over.wait(max(SECONDS_BETWEEN, spent / SHARE))

    def _draw(self) -> None:
        with self._drawing:
            super()._draw()
            if self._view:
                self._due = math.inf  # between two minibatches nobody has to draw

    def _below(self) -> Sequence[RenderableType]:
        return [self._view.table()] if self._view else ()

    def _so_far(self) -> int:
        return max(self._done, self._view.steps) if self._view else self._done

    def _left(self) -> str:
        return self._view.left() if self._view else super()._left()


class StreamView:
    """What the nodes of a stream are about, in words."""

    def __init__(self, start: StreamStarts) -> None:
        self._start = start
        self._known: Mapping[int, NodeStanding] = {}
        self._first: dict[int, tuple[int, float]] = {}

    def update(self) -> None:
        """See how things stand."""
        self._known, now = dict(self._start.look()), time.monotonic()
        for node, standing in self._known.items():
            self._first.setdefault(node, (standing.done, now))

    @property
    def finished(self) -> bool:
        """Whether all nodes have done their steps."""
        return all(self._done(node) >= steps for node, steps in enumerate(self._start.steps))

    @property
    def steps(self) -> int:
        """That all have done; where they run freely, the sum."""
        done = [self._done(node) for node in range(len(self._start.steps))]
        return sum(done) if self._start.freely else min(done)

    def table(self) -> Table:
        """A line a node."""
        lines = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        names = ("node", "blocks", "minibatches" if self._start.freely else "minibatch", "busy", "")
        for name in names:
            number = name not in ("node", "blocks", "")
            lines.add_column(name, justify="right" if number else "left", no_wrap=True, min_width=len(name))
        nodes = len(self._start.blocks)
        for node in range(nodes)[:MOST_LINES]:
            lines.add_row(*self._line(node))
        if nodes > MOST_LINES:
            lines.add_row("…", f"and {nodes - MOST_LINES} more nodes")
        return lines

    def left(self) -> str:
        """Time left: as the node has it that needs most."""
        if self.finished:
            return "done"
        seconds = [self._seconds(node, steps) for node, steps in enumerate(self._start.steps)]
        most = max(seconds, default=math.inf)
        return f"{clock(most)} left" if math.isfinite(most) else "-:-- left"

    def _seconds(self, node: int, steps: int) -> float:
        """That a node has to go, should it be as fast as so far."""
        done = self._done(node)
        if done >= steps:
            return 0.0
        first, began = self._first.get(node, (0, 0.0))
        elapsed = time.monotonic() - began
        return elapsed / (done - first) * (steps - done) if done > first and elapsed > 0.5 else math.inf

    def _done(self, node: int) -> int:
        standing = self._known.get(node)
        return standing.done if standing else 0

    def _line(self, node: int) -> tuple[RenderableType, ...]:
        standing, steps = self._known.get(node), self._start.steps[node]
        blocks = ranges(self._start.blocks[node])
        if standing is None:
            return str(node + 1), blocks, "", "", Text("starts", style="dim")
        at = standing.done if self._start.freely else min(standing.done + 1, steps)
        works = standing.action is not None
        doing = Text(self._doing(standing, steps), style="" if works else "dim")
        return str(node + 1), blocks, f"{at:,}/{steps:,}", f"{standing.share:.0%}", doing

    def _doing(self, standing: NodeStanding, steps: int) -> str:
        """`forward, block 2`, or what it waits for."""
        if standing.action is not None:
            what = "learns" if standing.action == Action.TRAIN else Action(standing.action).name.lower()
            block = "" if standing.block is None else f", block {standing.block + 1}"
            return what.replace("_", " ") + block
        if standing.waits_for is not None:
            return f"waits for node {standing.waits_for + 1}"
        if standing.done >= steps:
            return "has done its part"
        return "waits for its turn" if self._start.in_turns else "sends or waits"


def ranges(blocks: Sequence[int]) -> str:
    """Blocks, counted from 1: `1–2, 5`."""
    breaks = [at for at, (one, following) in enumerate(pairwise(blocks), 1) if following != one + 1]
    parts = [blocks[begin:end] for begin, end in pairwise([0, *breaks, len(blocks)])]
    return ", ".join(f"{part[0] + 1}–{part[-1] + 1}" if len(part) > 1 else str(part[0] + 1) for part in parts)
