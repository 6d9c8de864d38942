"""Handing out a plan's tasks until all is done: no rounds, nobody waits but for what he needs.

    while there is something to do
        whoever is free and has a ready task gets it
        what has come in is noted, and makes other tasks ready
        a holder of data that is gone is replaced by another holder of the same data

A *member* is a SuperNode; a *node* is one of the plan's, and its data is held by one member or more.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from layerline.errors import LayerlineError, PeerLost
from layerline.runtime.flower.conductor import Conductor
from layerline.runtime.flower.mail import Parcel
from layerline.runtime.flower.participant import Answer, Order
from layerline.runtime.judging import Judged

_SECONDS_BETWEEN = 0.1
FAILURES = 2
"""Of a member that is there, in a row, before that counts as an error of the run."""
_LOOK_SECONDS = 2.0
"""Between two looks at who is there."""


@dataclass(frozen=True)
class Asked:
    """What goes with everything that is asked of a participant."""

    run: str
    """The run's settings, as TOML."""
    name: str
    """Of the run, by which a participant finds what it did for it."""
    node: int
    accounts: str = ""
    """Of everybody's data, where all have their own: JSON."""


@dataclass(frozen=True)
class Reply:
    """What a participant answered."""

    said: dict[str, Any]
    answer: Answer


@dataclass(frozen=True)
class Lost:
    """No answer will come: the member is gone, or its process ended."""

    why: str


@dataclass(frozen=True)
class Refused:
    """A participant cannot do it; it would be no use to ask another."""

    what: str
    hint: str
    status: int


class Link(ABC):
    """The way to the members. What is pushed has a name, by which its reply is pulled."""

    @abstractmethod
    def members(self) -> set[int]:
        """Who is there."""

    @abstractmethod
    def hello(self, member: int) -> str:
        """Ask which part of the data it holds."""

    @abstractmethod
    def account(self, member: int, run: str) -> str:
        """Ask for the account of its own data, and which part that is; `run`: as in `Asked`."""

    @abstractmethod
    def order(self, member: int, asked: Asked, order: Order) -> str:
        """Ask for rows."""

    @abstractmethod
    def judge(self, member: int, asked: Asked, gone: Sequence[int], finished: Sequence[Parcel]) -> str:
        """Ask how right the finished blocks are, of a plan without the rows that are gone."""

    @abstractmethod
    def pull(self, names: Iterable[str]) -> list[tuple[str, Reply | Lost | Refused]]:
        """What has come for these, each once."""


@dataclass
class Federation:
    """A run's members and what they are asked for. `run`, `name`, `accounts`: as in `Asked`.

    `join`: seconds for all to come, and to judge; `patience`: seconds without anybody who holds a node's data; `note`
    hears what a person should know.
    """

    link: Link
    conductor: Conductor
    run: str
    name: str
    join: float
    patience: float
    note: Callable[[str], None]
    accounts: str = ""
    holders: dict[int, list[int]] = field(default_factory=dict)
    """Of each node, the members that hold its data."""
    _greeted: dict[int, str] = field(default_factory=dict)
    _asked: dict[str, tuple[int, int]] = field(default_factory=dict)
    _looked: float = 0.0
    _failed: dict[int, int] = field(default_factory=dict)
    """How often each member failed since it last answered."""
    _alone: dict[int, float] = field(default_factory=dict)
    """Since when nobody holds a node's data."""

    def carry_out(self, hear: Callable[[], None]) -> None:
        """Until all rows are done; `hear` is called whenever something has changed.

        LayerlineError where a participant refuses; PeerLost where nobody holds a node's data any more.
        """
        self._gather()
        while not self.conductor.finished:
            self._look()
            changed = self._hand_out()
            changed |= self._take_in()
            changed |= self._leave_out()
            if changed:
                hear()
            else:
                time.sleep(_SECONDS_BETWEEN)

    def judge(self) -> Judged:
        """What each participant finds on the examples it holds; nothing of those that are gone."""
        finished, gone = self.conductor.final(), sorted(self.conductor.plan.gone)
        waiting = {
            self.link.judge(self.holders[node][0], self._about(node), gone, finished): node
            for node in range(self.conductor.plan.nodes)
            if self.holders.get(node)
        }
        judged: Judged = {}
        until = time.monotonic() + self.join
        while waiting and time.monotonic() < until:
            for name, reply in self.link.pull(waiting):
                node = waiting.pop(name)
                if isinstance(reply, Reply):
                    judged[node] = int(reply.said["examples"]), json.loads(reply.said["readouts"])
                elif isinstance(reply, Refused):
                    self.note(f"node {node + 1} did not judge the finished blocks: {reply.what}")
            time.sleep(_SECONDS_BETWEEN)
        return judged

    def _about(self, node: int) -> Asked:
        return Asked(self.run, self.name, node, self.accounts)

    def _gather(self) -> None:
        """Wait until somebody holds each node's data."""
        until = time.monotonic() + self.join
        while missing := [node for node in range(self.conductor.plan.nodes) if not self.holders.get(node)]:
            self._look()
            self._take_in()
            if time.monotonic() > until:
                raise nobody_came(missing, self.join)
            time.sleep(_SECONDS_BETWEEN)

    def _look(self) -> None:
        """Greet members that came, and miss those that are gone."""
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        there = self.link.members()
        for member in there - set(self._greeted):
            name = self._greeted[member] = self.link.hello(member)
            self._asked[name] = member, -1
        for member in set(self._greeted) - there:
            self._miss(member, "it is gone")

    def _hand_out(self) -> bool:
        busy = {node for _, node in self._asked.values()}
        handed = False
        for node in range(self.conductor.plan.nodes):
            if node in busy or not self.holders.get(node):
                continue
            member = self.holders[node][0]
            order = self.conductor.order(node, member)
            if order is not None:
                self._asked[self.link.order(member, self._about(node), order)] = member, node
                handed = True
        return handed

    def _leave_out(self) -> bool:
        """Go on without nodes that nobody holds the data of, for too long. PeerLost where nobody is left."""
        now, left_out = time.monotonic(), False
        for node in range(self.conductor.plan.nodes):
            if self.holders.get(node) or not self.conductor.owes(node):
                self._alone.pop(node, None)
            elif now - self._alone.setdefault(node, now) > self.patience:
                if not any(self.holders.values()):
                    raise PeerLost("all SuperNodes are gone")
                self.conductor.leave_out(node)
                self.note(f"nobody holds the data of node {node + 1} any more: the plan goes on without it")
                left_out = True
        return left_out

    def _take_in(self) -> bool:
        replies = self.link.pull(list(self._asked)) if self._asked else []
        for name, reply in replies:
            member, node = self._asked.pop(name, (-1, -1))
            match reply:
                case Refused(what, hint, status):
                    error = LayerlineError(f"node {node + 1}: {what}" if node >= 0 else what, hint=hint or None)
                    error.exit_status = status
                    raise error
                case Lost(why):
                    if node >= 0:
                        self.conductor.withdraw(node)
                    self._miss(member, why)
                    self._refuse_useless(member, why)
                case Reply(said, answer) if node < 0:
                    self._welcome(member, int(said.get("part", -1)))
                case Reply(_, answer):
                    self.conductor.take(node, member, answer)
                    self._failed.pop(member, None)
        return bool(replies)

    def _welcome(self, member: int, part: int) -> None:
        if part in range(self.conductor.plan.nodes):
            self.holders.setdefault(part, []).append(member)
        else:
            self.note(f"a SuperNode with partition-id {part} has nothing to do: they count from 0")

    def _refuse_useless(self, member: int, why: str) -> None:
        """LayerlineError where a member is there, and fails whatever it is asked."""
        self._failed[member] = self._failed.get(member, 0) + 1
        if self._failed[member] > FAILURES and member in self.link.members():
            raise useless(why)

    def _miss(self, member: int, why: str) -> None:
        """A member is gone: what it was asked for goes to another holder of the data."""
        self._greeted.pop(member, None)
        for name, (asked, node) in list(self._asked.items()):
            if asked == member:
                del self._asked[name]
                if node >= 0:
                    self.conductor.withdraw(node)
        for node, members in self.holders.items():
            if member in members:
                members.remove(member)
                rest = "another SuperNode holds its data" if members else "nobody else holds its data"
                self.note(f"the SuperNode of node {node + 1} is lost ({why}); {rest}")


def useless(why: str) -> LayerlineError:
    """The error of a run with a member that is there, and fails whatever it is asked."""
    return LayerlineError(f"a participant failed {FAILURES + 1} times: {why}", hint="its SuperNode's log says more")


def nobody_came(missing: Sequence[int], seconds: float) -> PeerLost:
    """The error of a run whose participants are not all there."""
    return PeerLost(
        f"no SuperNode came with partition-id {', '.join(map(str, missing))} within {seconds:g} s",
        hint=f"start the missing ones: flower-supernode … --node-config 'partition-id={missing[0]}'",
    )
