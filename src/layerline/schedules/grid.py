"""A plan as the papers draw it: nodes down, slots across, `2.1` is block 2 for round 1.

              1    2    3    4     5    6
    node 1  1.1  2.1  3.1* 1.4   2.4  3.4         h.1: the softmax head; * the node then makes new negatives
    node 2       1.2  2.2  3.2*  1.5 …

Every slot counts as one step here, and what lies between slots (forwarding, ranking, messages) as none, so the grid
shows who waits for whom, not for how long. Of a large plan the beginning and the end are shown.

In a stream every row is a step: `1F0` is block 1's forward of microbatch 0, `1B0` the backward, `1U` the update; where
a block's gradients come from several losses, `1B0←2` is that of block 2's loss.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from layerline.schedules.lower import Messages
from layerline.schedules.plan import Action, Plan
from layerline.schedules.simulate import walk


def slots(plan: Plan, sent: Messages) -> NDArray[np.int64]:
    """The column of every row that is drawn, from 0; of other rows, the column they precede."""
    unit = _drawn(plan).astype(np.float64)
    start, _, _, _ = walk(plan, sent, unit, np.zeros(len(sent)), 0.0)
    return start.astype(np.int64)


def _drawn(plan: Plan) -> NDArray[np.bool_]:
    """Rows with a cell of their own."""
    return np.ones(len(plan), bool) if plan.streams else plan.action == Action.TRAIN


def grid(plan: Plan, sent: Messages, *, width: int = 100, height: int = 16) -> list[str]:
    """The lines of the drawing, no wider than `width` characters and about `height` nodes high."""
    column = slots(plan, sent)
    train = _drawn(plan)
    cells = _stream_cells(plan) if plan.streams else _cells(plan)
    label = max(len(f"node {plan.nodes}"), 6)
    columns = int(column[train].max()) + 1
    text = {(int(plan.node[row]), int(column[row])): cell for row, cell in cells.items()}
    sizes = np.full(columns, len(str(columns)))
    np.maximum.at(sizes, [at for _, at in text], [len(cell) for cell in text.values()])
    shown = _ends(columns, _room(sizes, width - label), 3)
    nodes = _ends(plan.nodes, height, 3)
    lines = [" " * label + "".join(f"  {'…' if c is None else c + 1:>{_size(sizes, c)}}" for c in shown)]
    for node in nodes:
        row = "" if node is None else "".join(f"  {_cell(text, node, c):>{_size(sizes, c)}}" for c in shown)
        lines.append(f"{'…' if node is None else f'node {node + 1}':<{label}}{row}".rstrip())
    return lines


def _cell(text: dict[tuple[int, int], str], node: int, column: int | None) -> str:
    return "…" if column is None else text.get((node, column), "")


def _size(sizes: NDArray[np.int64], column: int | None) -> int:
    return 1 if column is None else int(sizes[column])


def _room(sizes: NDArray[np.int64], width: int) -> int:
    """How many columns fit: all, or as many from the beginning as leave room for a gap and the last three."""
    if int((sizes + 2).sum()) <= width:
        return len(sizes)
    left = width - 3 - int((sizes[-3:] + 2).sum())
    return max(6, 4 + int(np.searchsorted(np.cumsum(sizes + 2), left, side="right")))


def _cells(plan: Plan) -> dict[int, str]:
    """What stands for each `train` row that may be shown."""
    made = plan.action == Action.NEGATIVES
    train = plan.action == Action.TRAIN
    by_node = np.argsort(plan.node, kind="stable")
    # The slot after which a node makes negatives is the last one before them in its rows.
    place = np.where(train[by_node], np.arange(len(plan)), -1)
    before = by_node[np.maximum.accumulate(place)[made[by_node]]]
    starred = set(before.tolist()) if len(plan) < _MANY else set()
    rows = np.flatnonzero(train).tolist() if len(plan) < _MANY else _sample(plan, train)
    names = [str(stage + 1) for stage in range(plan.blocks)] + ["h"]
    star = {True: "*", False: " " if made.any() else ""}
    return {row: f"{names[plan.stage[row]]}.{plan.round[row] + 1}{star[row in starred]}" for row in rows}


def _stream_cells(plan: Plan) -> dict[int, str]:
    """What stands for each row of a stream that may be shown."""
    every = np.ones(len(plan), bool)
    rows = range(len(plan)) if len(plan) < _MANY else _sample(plan, every)
    back = plan.action == Action.BACKWARD
    losses = np.unique(np.stack((plan.stage[back], plan.shard[back] // plan.shards)), axis=1)
    several = losses.shape[1] > plan.blocks
    return {row: _mark(plan, row, several) for row in rows}


def _mark(plan: Plan, row: int, several: bool) -> str:
    action, block = Action(plan.action[row]), int(plan.stage[row]) + 1
    if action == Action.UPDATE:
        return f"{block}U"
    ahead, microbatch = divmod(int(plan.shard[row]), plan.shards)
    loss = f"←{block + ahead}" if ahead and several else ""
    return f"{block}{action.name[0]}{microbatch}{loss}"


_MANY = 100_000
"""Rows above which only the beginning and the end are written out."""


def _sample(plan: Plan, train: NDArray[np.bool_]) -> list[int]:
    """Rows enough for both ends of the first and the last nodes of a large plan."""
    nodes = [n for n in _ends(plan.nodes, 32, 3) if n is not None]
    rows: list[int] = []
    for node in nodes:
        own = np.flatnonzero(train & (plan.node == node))
        rows += own[:64].tolist() + own[64:][-64:].tolist()
    return rows


def _ends(count: int, room: int, last: int) -> list[int | None]:
    """The numbers 0 … count − 1, or, if there are too many, the first ones, a gap (None) and the `last` ones."""
    if count <= room:
        return list(range(count))
    return [*range(room - last - 1), None, *range(count - last, count)]
