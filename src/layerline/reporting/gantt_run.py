"""`gantt.svg`: what a run took, above what it should have taken, on one time axis.

    measured   node 1  ███▒███▒ ███▒
               node 2     ███▒ ███▒███▒
    planned    node 1  ███▒███▒███▒
               node 2     ███▒███▒███▒

Bars, colours and names are those of a plan's picture. Of a long run the beginning and the end are drawn, side by side.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from layerline.files import replacing
from layerline.reporting.gantt import HANDING, HEAD, WIRE, draw_bars, handles, rectangles
from layerline.reporting.trace import Facts, on_one_clock
from layerline.schedules.plan import Plan
from layerline.schedules.simulate import Simulation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MISSING = 'there is no gantt.svg, which needs matplotlib: pip install "layerline[report]"'
_MOST_ROWS, _PART_ROWS, _MOST_LANES = 600, 20, 24  # in a picture; of a node in each half of a long run's; nodes

Spans = NDArray[np.float64]


@dataclass(frozen=True)
class Timeline:
    """Rows in time, seconds from the start: [rows, 2] each, NaN where a row has none."""

    plan: Plan
    rows: Spans
    handing: Spans
    messages: Sequence[tuple[int, float, float]]
    """Sender, begin, end."""
    sittings: Sequence[float]
    """Where each sitting begins."""

    @property
    def end(self) -> float:
        """Of the last row."""
        return float(np.nanmax(self.rows, initial=0.0))

    @property
    def utilisation(self) -> Spans:
        """Fraction of the time each node computes."""
        busy = np.bincount(self.plan.node, np.nan_to_num(self.rows[:, 1] - self.rows[:, 0]), self.plan.nodes)
        share: Spans = busy / (self.end or 1.0)
        return share


def can_draw() -> bool:
    """Whether matplotlib is there."""
    return importlib.util.find_spec("matplotlib") is not None


@dataclass(frozen=True)
class Line:
    """A line of the picture: a timeline, in one window or two."""

    timeline: Timeline
    said: str
    """Above it."""
    windows: Sequence[tuple[float, float]]
    """From and to, in seconds, side by side; as many and as wide in every line."""
    shares: Spans
    """Fraction of the time each node computes."""


def draw_run(plan: Plan, facts: Facts, predicted: Simulation, path: Path, title: str) -> None:
    """Draw and save (`.svg` or `.png`). LayerlineError where that is not possible."""
    both = [("measured", measured(plan, facts)), ("planned", planned(plan, predicted))]
    lanes = min(plan.nodes, _MOST_LANES)
    windows = _windows([line.end for _, line in both], len(plan) / plan.nodes, lanes)
    lines = [
        Line(line, f"{name}   {line.end:,.4g} s, {line.utilisation.mean():.0%} busy", shown, line.utilisation)
        for (name, line), shown in zip(both, windows, strict=True)
    ]
    draw_lines(lines, path, title, handing=True)


def draw_lines(lines: Sequence[Line], path: Path, title: str, *, handing: bool) -> None:
    """Draw timelines of one plan below each other, and save. `handing`: whether results are handed over by rows."""
    from matplotlib.figure import Figure

    plan, parts = lines[0].timeline.plan, len(lines[0].windows)
    lanes = min(plan.nodes, _MOST_LANES)
    figure = Figure(figsize=(13, 1.5 + len(lines) * (0.45 + 0.42 * lanes)), layout="constrained")
    grid = figure.subplots(len(lines), parts, squeeze=False)
    for row, line in zip(grid, lines, strict=True):
        names = [f"node {n + 1}  {line.shares[n]:.0%}" for n in range(lanes)]
        for number, (axes, window) in enumerate(zip(row, line.windows, strict=True)):
            _panel(axes, line.timeline, [""] * lanes if number else names, window, parts)
        row[0].set_title(line.said, loc="left", fontsize=10, color=HEAD)
    part = "" if parts == 1 else ": its beginning and its end"
    part += "" if lanes == plan.nodes else f" (the first {lanes} nodes)"
    figure.suptitle(f"{title}{part}", x=0.01, ha="left", fontsize=12, fontweight="bold")
    for axes in grid[-1]:
        axes.set_xlabel("seconds", fontsize=9)
    colours = handles(plan, wires=any(len(line.timeline.messages) for line in lines), handing=handing)
    figure.legend(handles=colours, loc="outside lower center", ncols=len(colours), frameon=False, fontsize=8,
                  handlelength=1.0, columnspacing=1.2)  # fmt: skip
    with replacing(path) as beside:
        figure.savefig(beside, format=path.suffix[1:], dpi=160)


def measured(plan: Plan, facts: Facts) -> Timeline:
    """What the nodes noted. A row that was done twice is drawn where it was done last."""
    told, sittings = on_one_clock(facts)
    rows, handing = np.full((2, len(plan), 2), np.nan)
    sent = []
    for node, each in told.items():
        for fact in each:
            rows[fact["row"]] = fact["begin"], fact["end"]
            handing[fact["row"]] = fact["end"], fact["handed"]
            sent += [(node, t[0], t[1]) for t in fact["transfers"] if t[6] == "send"]
    return Timeline(plan, rows, handing, sent, sittings)


def planned(plan: Plan, found: Simulation) -> Timeline:
    """What was simulated; its messages where every node has a process of its own."""
    rows = np.stack((found.start, found.end), 1)
    alone = found.plan.nodes == plan.nodes
    columns = (found.messages.sender.tolist(), found.leave.tolist(), found.arrive.tolist())
    return Timeline(plan, rows, np.full_like(rows, np.nan), list(zip(*columns, strict=True)) if alone else [], [0.0])


def _windows(ends: list[float], rows: float, lanes: int) -> list[list[tuple[float, float]]]:
    """For each timeline, all of a short run; of a long one, its first seconds and its last, as many for both.

    `rows`: of a node.
    """
    longest = max(ends) or 1.0
    if rows * lanes <= _MOST_ROWS:
        return [[(0.0, longest)]] * len(ends)
    part = longest * _PART_ROWS / rows
    return [[(0.0, part), (max(0.0, end - part), max(end, part))] for end in ends]


def _panel(axes: Axes, line: Timeline, names: list[str], window: tuple[float, float], parts: int) -> None:
    """`names`: of the lanes; `parts`: windows side by side."""
    begin, end = window
    plan, lanes = line.plan, len(names)
    shown = (plan.node < lanes) & (line.rows[:, 0] < end) & (line.rows[:, 1] > begin)
    kept = shown & (line.handing[:, 1] > line.handing[:, 0])
    rectangles(axes, np.clip(line.handing[kept], begin, end), plan.node[kept].astype(float), 0.4, HANDING)
    draw_bars(axes, plan, np.flatnonzero(shown), np.clip(line.rows, begin, end), (end - begin) * parts)
    sent = np.array([wire for wire in line.messages if wire[0] < lanes and wire[1] < end and wire[2] > begin])
    if len(sent):
        sent[:, 2] = np.maximum(sent[:, 2], sent[:, 1] + (end - begin) / 2000)
        rectangles(axes, np.clip(sent[:, 1:], begin, end), sent[:, 0] + 0.4, 0.1, WIRE)
    for sitting in line.sittings[1:]:
        if begin < sitting < end:
            axes.axvline(sitting, color=HEAD, linewidth=0.8, linestyle=":")
    axes.set_xlim(begin, end)
    axes.set_ylim(lanes - 0.4, -0.6)
    axes.set_yticks(range(lanes), names, fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
