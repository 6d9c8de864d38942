"""A plan in time, drawn: a lane per node, a bar per row, an arrow per message while they can be told apart.

    node 1  ███▒███▒███▒          training: a colour per block; forwarding: the same, paler; ranking: grey
    node 2     ▒███▒███▒███       hatched thin bars below a lane: messages that leave the node

Of a long plan the beginning is drawn, as much as can be read.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from layerline.errors import LayerlineError, UsageError
from layerline.reporting.trace import kind_of_stage
from layerline.schedules.plan import Action, Plan
from layerline.schedules.simulate import Simulation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_MOST_BARS, _MOST_LANES, _MOST_ARROWS = 24, 24, 160  # bars: per lane
_COLOURS = ("#2f6fbb", "#e07b39", "#3f9b6c", "#b3477d", "#8a6fc9", "#c2a336", "#4aa5b5", "#b5564a")
HEAD, HANDING, WIRE = "#3d3d3d", "#e3e3e3", "#b0b0b0"
_RANKING = "#9a9a9a"
_LEARNING = (Action.TRAIN, Action.BACKWARD, Action.INPUT_GRADIENT, Action.WEIGHT_GRADIENT)


def check_gantt(path: str) -> None:
    """UsageError if no picture of that name can be drawn: another kind of file, no matplotlib, no such folder."""
    if Path(path).suffix.lower() not in (".svg", ".png"):
        raise UsageError(f"--gantt draws .svg and .png, not {path}")
    if not Path(path).parent.is_dir():
        raise UsageError(f"--gantt: there is no folder {Path(path).parent}")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError("--gantt needs matplotlib", hint='install it: pip install "layerline[report]"') from None


def draw_gantt(found: Simulation, path: str, title: str) -> None:
    """Draw and save. LayerlineError if the file cannot be written."""
    from matplotlib.figure import Figure

    plan = found.plan
    lanes = min(plan.nodes, _MOST_LANES)
    shown = np.flatnonzero(plan.node < lanes)
    shown = shown[np.argsort(found.start[shown], kind="stable")]
    most = _MOST_BARS * lanes
    until = float(found.start[shown[most]]) if len(shown) > most else found.makespan
    rows = shown[found.start[shown] < until]

    figure = Figure(figsize=(12, 1.6 + 0.55 * lanes), layout="constrained")
    axes = figure.add_subplot()
    draw_bars(axes, plan, rows, np.stack((found.start, found.end), 1).clip(max=until), until)
    _wires(axes, found, lanes, until)
    _frame(axes, found, lanes, until, title)
    try:
        figure.savefig(path, dpi=160)
    except OSError as error:
        raise LayerlineError(f"cannot write {path}: {error.strerror}") from None


def _colour(plan: Plan, row: int) -> str:
    if plan.action[row] == Action.NEGATIVES:
        return _RANKING
    stage = int(plan.stage[row])
    return HEAD if stage == plan.blocks else _COLOURS[stage % len(_COLOURS)]


def draw_bars(axes: Axes, plan: Plan, rows: Ints, spans: Floats, width: float) -> None:
    """Bars for some rows, each from `spans[row, 0]` to `spans[row, 1]`, named where they are wide enough for it.

    `width`: seconds that the picture is wide.
    """
    from matplotlib.colors import to_rgba

    colours = []
    for row in rows.tolist():
        begin, end = spans[row]
        train = plan.action[row] in _LEARNING
        pale = 1.0 if train else 0.42 if plan.action[row] == Action.FORWARD else 0.75
        colours.append(to_rgba(_colour(plan, row), pale))
        name = "h" if plan.stage[row] == plan.blocks else str(plan.stage[row] + 1)
        what = Action(plan.action[row]).name[0]
        words = f"{name}{what}{plan.shard[row] % plan.shards}" if plan.streams else f"{name}.{plan.round[row] + 1}"
        if train and (end - begin) / width > 0.006 * len(words):
            axes.text((begin + end) / 2, plan.node[row], words, ha="center", va="center", fontsize=7, color="white")
    heights = np.where(np.isin(plan.action[rows], _LEARNING), 0.62, 0.4)
    rectangles(axes, spans[rows], plan.node[rows].astype(float), heights, colours)


def rectangles(axes: Axes, spans: Floats, middles: Floats, heights: Floats | float, colours: object) -> None:
    """Many at once, each from `spans[i, 0]` to `spans[i, 1]`, about the line `middles[i]`."""
    from matplotlib.collections import PolyCollection

    x, low, high = spans[:, [0, 1, 1, 0]], middles - np.divide(heights, 2), middles + np.divide(heights, 2)
    corners = np.stack((x, np.stack((low, low, high, high), 1)), 2)
    axes.add_collection(PolyCollection(list(corners), facecolors=colours, linewidths=0), autolim=False)


def _wires(axes: Axes, found: Simulation, lanes: int, until: float) -> None:
    """Messages as thin bars under the sender's lane; as lines to the receiver's while they are few."""
    sent = found.messages
    seen = np.flatnonzero((found.leave < until) & (sent.sender < lanes) & (sent.receiver < lanes))
    leave = found.end[sent.source]
    for m in seen.tolist():
        width = max(min(float(found.arrive[m]), until) - found.leave[m], until / 2000)
        axes.barh(sent.sender[m] + 0.4, width, 0.1, found.leave[m], color=WIRE, linewidth=0)
        if len(seen) <= _MOST_ARROWS and found.start[sent.needed[m]] < until:
            ends = (leave[m], found.start[sent.needed[m]]), (sent.sender[m] + 0.31, sent.receiver[m] - 0.31)
            if sent.sender[m] > sent.receiver[m]:
                ends = ends[0], (sent.sender[m] - 0.31, sent.receiver[m] + 0.31)
            axes.plot(*ends, color=HEAD, alpha=0.35, linewidth=0.7, solid_capstyle="round")


def _frame(axes: Axes, found: Simulation, lanes: int, until: float, title: str) -> None:
    plan = found.plan
    axes.set_ylim(lanes - 0.4, -0.6)
    axes.set_xlim(0, until)
    axes.set_yticks(range(lanes), [f"node {n + 1}  {found.utilisation[n]:.0%}" for n in range(lanes)])
    whole = until >= found.makespan
    axes.set_xlabel("seconds" if whole else f"seconds; the first {until:,.4g} of {found.makespan:,.4g} s are shown")
    part = "" if lanes == plan.nodes else f" (the first {lanes} nodes)"
    axes.set_title(f"{title}{part}\n", loc="left", fontsize=11, fontweight="bold")
    said = f"{found.makespan:,.4g} s, {found.speedup:.2f}× one node, {found.utilisation.mean():.0%} busy"
    axes.text(0, 1.02, said, transform=axes.transAxes, fontsize=9, color=HEAD)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    shown = handles(plan, wires=len(found.messages) > 0)
    axes.legend(handles=shown, ncols=len(shown), loc="upper right", bbox_to_anchor=(1, 1.14 if lanes > 3 else 1.2),
                frameon=False, fontsize=8, handlelength=1.0, columnspacing=1.1)  # fmt: skip


def handles(plan: Plan, *, wires: bool, handing: bool = False) -> list[Patch]:
    """What the colours mean, for a legend."""
    from matplotlib.patches import Patch

    kind = kind_of_stage(plan)
    shown = [Patch(color=_COLOURS[b % len(_COLOURS)], label=f"{kind} {b + 1}") for b in range(min(plan.blocks, 8))]
    shown += [Patch(color=HEAD, label="head")] if plan.head else []
    if (plan.action == Action.FORWARD).any():
        shown += [Patch(color=_COLOURS[0], alpha=0.42, label="forwarding (paler)")]
    if (plan.action == Action.NEGATIVES).any():
        shown.append(Patch(color=_RANKING, alpha=0.75, label="ranking labels"))
    if handing:
        shown.append(Patch(color=HANDING, label="handing over"))
    if wires:
        shown.append(Patch(color=WIRE, label="sending"))
    return shown
