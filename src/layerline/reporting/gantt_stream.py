"""`gantt.svg` of a stream: the steps that were recorded, above the same ones as they were simulated.

    measured   node 1  ▒█▪ ▒█▪ ▒█▪        │      ▒█▪ ▒█▪
               node 2     ▒█▪ ▒█▪ ▒█▪     │         ▒█▪ ▒█▪
    planned    node 1  ▒█▪ ▒█▪ ▒█▪        │      ▒█▪ ▒█▪
               node 2     ▒█▪ ▒█▪ ▒█▪     │         ▒█▪ ▒█▪

Of a short run all steps; else some of the first, and the last. Windows are as wide in both lines: what ends further to
the left took less time.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from layerline.reporting.gantt_run import Line, Spans, Timeline, draw_lines, measured
from layerline.reporting.trace import Facts
from layerline.schedules.plan import Plan
from layerline.schedules.stream_simulate import StreamSimulation


def draw_stream(
    plan: Plan,
    facts: Facts,
    found: StreamSimulation,
    step_seconds: float,
    shares: Sequence[float],
    path: Path,
    title: str,
) -> None:
    """Draw and save (`.svg` or `.png`). LayerlineError where that is not possible.

    `plan`: the recorded steps, under their numbers. `step_seconds`, `shares`: of the whole run, measured: seconds from
    a step to the next, and the fraction of the time that each node computed.
    """
    above, below = measured(plan, facts), planned_steps(plan, found)
    busy = np.bincount(plan.node, below.rows[:, 1] - below.rows[:, 0], plan.nodes) / len(np.unique(plan.round))
    width = max(end - begin for line in (above, below) for begin, end in _parts(line))
    lines = [
        _line("measured", above, step_seconds, np.array(shares), width),
        _line("planned", below, found.step_seconds, busy / (found.step_seconds or 1.0), width),
    ]
    draw_lines(lines, path, title, handing=False)


def _line(name: str, timeline: Timeline, seconds: float, shares: Spans, width: float) -> Line:
    begin, *rest = _parts(timeline)
    windows = [(begin[0], begin[0] + width), *((end - width, end) for _, end in rest)]
    return Line(timeline, f"{name}   {1000 * seconds:,.4g} ms a step, {shares.mean():.0%} busy", windows, shares)


def planned_steps(plan: Plan, found: StreamSimulation) -> Timeline:
    """The same steps as they were simulated, from the begin of the first on; their messages where every node has a
    process of its own."""
    numbers = np.unique(plan.round)
    each = len(plan) // len(numbers)
    rows = np.full((len(plan), 2), np.nan)
    begin, spans = found.begin, np.stack((found.begin.start, found.begin.end), 1)
    wires: list[tuple[int, float, float]] = []
    step_of = begin.plan.chapter[begin.messages.source]
    for at, number in enumerate(numbers.tolist()):
        step, later = found.alike(number)
        rows[at * each : (at + 1) * each] = spans[step * each : (step + 1) * each] + later
        for m in np.flatnonzero(step_of == step).tolist() if begin.plan.nodes == plan.nodes else ():
            times = float(begin.leave[m]) + later, float(begin.arrive[m]) + later
            wires.append((int(begin.messages.sender[m]), *times))
    start = float(rows.min())
    wires = [(sender, begins - start, ends - start) for sender, begins, ends in wires]
    return Timeline(plan, rows - start, np.full_like(rows, np.nan), wires, [0.0])


def _parts(line: Timeline) -> list[tuple[float, float]]:
    """From and to of steps that follow one another without a gap."""
    numbers = np.unique(line.plan.round)
    cuts = [0, *(at for at, (one, other) in enumerate(pairwise(numbers), 1) if other > one + 1), len(numbers)]
    found = []
    for begin, end in pairwise(cuts):
        inside: Spans = line.rows[np.isin(line.plan.round, numbers[begin:end])]
        if np.isnan(inside).all():
            inside = np.zeros((1, 2))
        found.append((float(np.nanmin(inside)), float(np.nanmax(inside))))
    return found
