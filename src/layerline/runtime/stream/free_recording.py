"""When the steps of blocks that run freely began and ended: for the trace and the picture.

Problem: nodes are never at the same step, so no numbers say which steps to record, and a run makes millions. Solution:
every node keeps its first steps and its latest; what is shown are the two spans of time of which all nodes have
everything.

    node 1   ▌▌▌▌▌▌▌▌│ · · · · · · · · · · · · │▌▌▌▌▌▌▌▌      as many steps of each node, which a fast one makes
    node 2   █ █ █ █ │█ █ █ █ · · · · █ █ █ █ █│ █ █ █ █      in less time
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from layerline.runtime.stream.recording import Recording
from layerline.schedules.free_running import SCHEDULE
from layerline.schedules.plan import Action, Plan
from layerline.transport.base import Transfer

_MOST = 100
"""Steps of each end of the run that a node keeps."""

Row = tuple[int, int, int, float, float]


class FreeRecording:
    """Fills a node's `Recording`, whose rows are then (sitting, step of the block, block, begin, end)."""

    def __init__(self, recording: Recording) -> None:
        self._kept = recording

    def add(self, block: int, step: int, begin: float, end: float) -> None:
        """A step, in seconds since 1970."""
        self._kept.rows.append((self._kept.sitting, step, block, begin, end))
        _forget(self._kept.rows, _MOST)

    def add_message(self, transfer: Transfer) -> None:
        """A message that went or came."""
        self._kept.add_message(transfer.key.stage, transfer)
        _forget(self._kept.messages, 2 * _MOST)  # it sends, and receives


def _forget(kept: list[Any], most: int) -> None:
    """Of more than there is room for, the oldest after the first ones."""
    if len(kept) > 2 * most:
        del kept[most]


def free_timeline(recorded: Sequence[Recording], blocks: int) -> tuple[Plan, dict[int, list[dict[str, Any]]]]:
    """A table of the steps that are shown, like a plan; and the facts of every node about its rows.

    A step that several sittings made is that of the last.
    """
    shown = [_within(each, recorded) for each in recorded]
    every = sorted((row[3], node, row) for node, rows in enumerate(shown) for row in rows)
    place = {(row[2], row[1]): at for at, (_, _, row) in enumerate(every)}
    stage = np.array([row[2] for _, _, row in every], np.int32)
    step = np.array([row[1] for _, _, row in every], np.int32)
    plan = Plan(
        schedule=SCHEDULE,
        blocks=blocks,
        head=False,
        chapters=int(step.max(initial=0)) + 1,
        minibatches=0,
        nodes=len(recorded),
        shards=1,
        shares=(1.0,),
        action=np.full(len(every), Action.TRAIN, np.uint8),
        stage=stage,
        round=step,
        node=np.array([node for _, node, _ in every], np.int32),
        shard=np.zeros(len(every), np.int32),
        first=np.zeros(len(every) + 1, np.int64),
        source=np.zeros(0, np.int32),
        carries=np.zeros(0, np.uint8),
    )
    pairs = enumerate(zip(shown, recorded, strict=True))
    return plan, {node: _facts(rows, each, place) for node, (rows, each) in pairs}


def _facts(rows: Sequence[Row], recorded: Recording, place: dict[tuple[int, int], int]) -> list[dict[str, Any]]:
    """What a node tells of its rows; its messages stand with the first one of their sitting.

    `place`: the row of the table for each block and step.
    """
    told: list[dict[str, Any]] = [
        {"row": place[block, number], "sitting": sitting, "begin": begin, "end": end, "handed": end}
        | {"durable": False, "transfers": [], "metrics": []}
        for sitting, number, block, begin, end in rows
    ]
    first = {fact["sitting"]: fact for fact in reversed(told)}
    for sitting, number, block, begin, end, carries, peer, count, direction in recorded.messages:
        if sitting in first and (block, number) in place:
            row = place[block, number]
            first[sitting]["transfers"].append([begin, end, row, carries, peer, count, direction])
    return told


def _within(own: Recording, recorded: Sequence[Recording]) -> list[Row]:
    """The steps of a node in the spans that all nodes have everything of; all of a short run."""
    full = [each.rows for each in recorded if len(each.rows) == 2 * _MOST]
    if not full:
        return own.rows
    until, since = min(rows[_MOST - 1][4] for rows in full), max(rows[_MOST][3] for rows in full)
    return [row for row in own.rows if row[4] <= until or row[3] >= since]
