"""How long a finished slot has to be kept.

    needed by       a later row that takes it as an input, also through rows that only forward (they leave no file),
                    the next slot of the same block on the same node, for its moments,
                    the next message of its block on the same link, where differences are sent,
                    the finished model, if it is of the last chapter

Problem: every slot of a run is 50 MB with its moments; a hundred chapters of four blocks are twenty gigabytes.
Solution: a result is deleted when all rows that could ever ask for it again are done.
"""

from __future__ import annotations

import numpy as np

from layerline.schedules.lower import messages
from layerline.schedules.plan import Action, Carries, Plan


def readers(plan: Plan) -> dict[int, list[int]]:
    """The rows that have each row as an input."""
    found: dict[int, list[int]] = {}
    for source, target in zip(plan.source.tolist(), plan.target.tolist(), strict=True):
        found.setdefault(source, []).append(target)
    return found


def last_slots(plan: Plan) -> list[int]:
    """The slots of the last round, by stage and shard: the finished model.

    Where nobody carries those of a stage out any more, those of the last round that somebody did.
    """
    last = np.flatnonzero((plan.action == Action.TRAIN) & (plan.round == plan.rounds - 1)).tolist()
    if not plan.gone.isdisjoint(last):
        slots = [row for row in np.flatnonzero(plan.action == Action.TRAIN).tolist() if row not in plan.gone]
        latest: dict[int, int] = {}
        for row in slots:
            latest[int(plan.stage[row])] = max(int(plan.round[row]), latest.get(int(plan.stage[row]), 0))
        last = [row for row in slots if plan.round[row] == latest[int(plan.stage[row])]]
    return sorted(last, key=lambda r: (int(plan.stage[r]), int(plan.shard[r])))


def to_do(plan: Plan, done: set[int]) -> set[int]:
    """Rows without a result; of those that only forward, the ones that somebody still needs."""
    direct, todo = readers(plan), set[int]()
    for row in reversed(range(len(plan))):
        if plan.action[row] == Action.FORWARD:
            needed = any(reader in todo for reader in direct.get(row, ()))
        else:
            needed = row not in done
        if needed and row not in plan.gone:
            todo.add(row)
    return todo


class Needs:
    """Which finished rows may still be asked for."""

    def __init__(self, plan: Plan, *, differences: bool = False) -> None:
        """`differences`: a codec sends differences from what a link carried last, so that has to be kept, too."""
        self.readers = direct = readers(plan)
        durable = [int(row) for row in range(len(plan)) if plan.action[row] != Action.FORWARD]
        self._users = {row: _durable_users(plan, row, direct) for row in durable}
        latest: dict[tuple[int, int], int] = {}
        for row in reversed(durable):
            if plan.action[row] == Action.TRAIN:
                place = int(plan.node[row]), int(plan.stage[row])
                if place in latest:
                    self._users[row].add(latest[place])
                latest[place] = row
        self._kept = set(last_slots(plan))
        if differences:
            self._keep_references(plan)

    def _keep_references(self, plan: Plan) -> None:
        sent = messages(plan)
        following: dict[tuple[int, int, int, int], int] = {}
        columns = (sent.source, sent.carries, sent.sender, sent.receiver)
        for source, carries, sender, receiver in reversed(list(zip(*(c.tolist() for c in columns), strict=True))):
            if carries in (Carries.STATE, Carries.WEIGHTS):
                place = sender, receiver, carries, int(plan.stage[source])
                if place in following:
                    self._users[source].add(following[place])
                following[place] = source

    def over(self, rows: set[int], done: set[int]) -> set[int]:
        """Those of `rows` that nobody will ask for, once all of `done` are on disk."""
        return {row for row in rows if row not in self._kept and self._users[row] <= done}


def _durable_users(plan: Plan, row: int, direct: dict[int, list[int]]) -> set[int]:
    """The rows with a result on disk that need `row`, directly or through rows that only forward."""
    users, seen, left = set[int](), set[int](), list(direct.get(row, ()))
    while left:
        reader = left.pop()
        if plan.action[reader] != Action.FORWARD:
            users.add(reader)
        elif reader not in seen:
            seen.add(reader)
            left += direct.get(reader, ())
    return users
