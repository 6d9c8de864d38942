"""`gantt.svg` of blocks that run freely: the first steps and the last ones. There is no plan to stand below them.

measured   node 1  ████████████       │    █████████████
           node 2     ███ ███ ███     │   ███ ███ ███
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from layerline.reporting.gantt_run import Line, Timeline, draw_lines, measured
from layerline.reporting.trace import Facts
from layerline.schedules.plan import Plan


def draw_free(plan: Plan, facts: Facts, shares: Sequence[float], path: Path, title: str) -> None:
    """Draw and save (`.svg` or `.png`). LayerlineError where that is not possible.

    `plan`: the steps that are shown, as rows. `shares`: of the whole run, the fraction of the time each node computed.
    """
    timeline, busy = measured(plan, facts), np.array(shares)
    said = f"measured   {busy.mean():.0%} busy"
    draw_lines([Line(timeline, said, _parts(timeline), busy)], path, title, handing=False)


def _parts(line: Timeline) -> list[tuple[float, float]]:
    """From and to of what is there without a gap: two as wide as each other where steps between them are left out."""
    plan, until, since = line.plan, 0.0, line.end
    for block in range(plan.blocks):
        rows = np.flatnonzero(plan.stage == block)
        rows = rows[np.argsort(plan.round[rows], kind="stable")]
        for at in np.flatnonzero(np.diff(plan.round[rows]) > 1).tolist():
            until = max(until, float(line.rows[rows[at], 1]))
            since = min(since, float(line.rows[rows[at + 1], 0]))
    if not 0 < until < since:
        return [(0.0, line.end or 1.0)]
    width = min(until, line.end - since)
    return [(0.0, width), (line.end - width, line.end)]
