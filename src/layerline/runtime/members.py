"""The processes of one run: who they are, where they meet, and what each lets the others know.

    started by layerline train --processes P     the launcher serves the store, on the loopback interface
    started by torchrun                          torchrun's own store, at MASTER_ADDR

Both set RANK and WORLD_SIZE. The store holds small facts only: who is there, how far each node is, what it measured,
and why somebody gave up, so that all others end with the same error instead of waiting. Blocks and outputs travel by
the transport.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Self

from torch.distributed import DistError, PrefixStore, Store  # type: ignore[attr-defined]

from layerline.errors import Elsewhere, LayerlineError, PeerLost, Stopped, UsageError
from layerline.runtime.addresses import BY_ADDRESS, Listener, own_address, refuse_unreachable
from layerline.runtime.generation import agreed_generation, outdated
from layerline.schedules.plan import Plan
from layerline.transport.rendezvous import join_store, serve_store

STORE = "LAYERLINE_STORE"
"""Set by our own launcher: address of its store."""
JOIN_SECONDS = 120.0
"""For all processes to come, and to say what they have; `LAYERLINE_JOIN` sets it."""
SILENCE_SECONDS = 60.0
"""After which a process that says nothing is lost; `LAYERLINE_SILENCE` of the launcher sets it for its workers."""
STOP_SECONDS = 30.0
"""For workers that are asked to stop to save themselves, before they are killed; `LAYERLINE_STOP` of the launcher sets
it."""
LONGEST_SECONDS = 7 * 24 * 3600.0
"""For one message: as long as the nodes before take. That they are alive is known by `SILENCE_SECONDS`."""
_SECONDS_BETWEEN = 0.05
_PIECE = 500  # values in one piece
_LINGER_SECONDS = 5.0
"""For which the process that serves the store stays, so that the others can read why it ends."""


@dataclass(frozen=True)
class Membership:
    """This process's place in a run over several."""

    rank: int
    world: int
    host: str
    """This process's own address, to listen on."""
    launched: bool
    """By our own launcher, which speaks for all of them."""

    @classmethod
    def of_environment(cls) -> Self | None:
        """The membership that a launcher gave this process; None where it was started by itself."""
        environment = os.environ
        launched = STORE in environment
        if "RANK" not in environment or not (launched or "TORCHELASTIC_RUN_ID" in environment):
            return None
        where = environment[STORE].rpartition(":")[0] if launched else environment["MASTER_ADDR"]
        rank, world = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        return cls(rank, world, own_address(where), launched)

    @property
    def serves(self) -> bool:
        """Whether the store is in this process, and gone with it."""
        return not self.launched and self.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"

    def store(self, timeout: float) -> Store:
        """Where the processes meet; always the same. PeerLost where nobody serves it, UsageError for a taken port."""
        if self.launched:
            host, _, port = os.environ[STORE].rpartition(":")
        else:
            host, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
        try:
            return _store(host, int(port), self.serves, timeout)
        except PeerLost as error:
            if not self.launched and error.hint:
                error.hint += f"; or {BY_ADDRESS}"
            raise

    def generation(self, timeout: float) -> int:
        """Which start of the processes this is; waits for all of them. Always the same. PeerLost."""
        return _generation(self, timeout)


@cache  # a second server would not have what the first was told
def _store(host: str, port: int, serves: bool, timeout: float) -> Store:
    return (serve_store if serves else join_store)(host, port, timeout=timeout)


@cache  # a process enters one generation only
def _generation(member: Membership, timeout: float) -> int:
    store = member.store(timeout)
    with _asking():
        return agreed_generation(store, member.rank, member.world, timeout)


def join_seconds() -> float:
    """As `JOIN_SECONDS`, or as somebody set it."""
    return _seconds("LAYERLINE_JOIN", JOIN_SECONDS)


def silence_seconds() -> float:
    """As `SILENCE_SECONDS`, or as somebody set it."""
    return _seconds("LAYERLINE_SILENCE", SILENCE_SECONDS)


def stop_seconds() -> float:
    """As `STOP_SECONDS`, or as somebody set it."""
    return _seconds("LAYERLINE_STOP", STOP_SECONDS)


def _seconds(variable: str, otherwise: float) -> float:
    """A time from the environment. UsageError where it is none."""
    with suppress(ValueError):
        seconds = float(os.environ.get(variable) or otherwise)
        if 0 < seconds <= LONGEST_SECONDS:
            return seconds
    raise UsageError(
        f"{variable}={os.environ[variable]} is no time to wait", hint=f"give seconds: {variable}={otherwise:g}"
    )


def refuse_idle(world: int, nodes: int) -> None:
    """UsageError for more processes than nodes."""
    if world > nodes:
        raise UsageError(
            f"{world} processes for {nodes} node{'s' * (nodes > 1)}: each needs one at least",
            hint=f"start {nodes}, or plan more: --nodes {world}",
        )


def placement(plan: Plan, world: int) -> list[int]:
    """The process of every node. UsageError for more processes than nodes.

    Nodes that take turns with chapters are dealt out in turns, so that all processes have something to do; nodes that
    own blocks stay beside their neighbours.
    """
    return places(plan.schedule, plan.nodes, world)


def places(schedule: str, nodes: int, world: int) -> list[int]:
    """As `placement`, before there is a plan."""
    refuse_idle(world, nodes)
    if schedule in ("all-layers", "federated"):
        return [node % world for node in range(nodes)]
    return [node * world // nodes for node in range(nodes)]


class Board:
    """What the processes let each other know, in the store. All raise PeerLost where the store is gone.

    Used by one thread: a client that waits blocks others. `store`: another client of the same store. `generation`: what
    was agreed on; None: agree on it first, when all have come.
    """

    def __init__(
        self, member: Membership, timeout: float, store: Store | None = None, generation: int | None = None
    ) -> None:
        self.member, self._timeout = member, timeout
        self.generation = member.generation(timeout) if generation is None else generation
        self._all = store or member.store(timeout)
        self._store = PrefixStore(f"board/{self.generation}", self._all)

    def for_another_thread(self) -> Board:
        """The same board, with a client of its own."""
        client = self.member.store(self._timeout).clone()  # type: ignore[attr-defined]
        return Board(self.member, self._timeout, client, self.generation)

    def post(self, name: str, value: Any) -> None:
        """Say something; the latest counts."""
        with _asking():
            self._refuse_outdated()
            self._store.set(name, json.dumps(value))

    def look(self, name: str) -> Any:
        """What was said; None if nothing was, yet."""
        with _asking():
            return json.loads(self._store.get(name)) if self._store.check([name]) else None

    def wait(
        self,
        names: Sequence[str],
        who: Sequence[str],
        *,
        timeout: float | None = None,
        hint: str | None = None,
        heed: Callable[[], None] = lambda: None,
    ) -> list[Any]:
        """Everything under these names, once it is there. PeerLost that says who is missing, after `timeout` seconds.

        Where another process gave up, its error. `heed` is called meanwhile, and may raise.
        """
        timeout = self._timeout if timeout is None else timeout
        until = time.monotonic() + timeout
        with _asking():
            while not self._store.check(list(names)):
                given_up = self._given_up()
                if given_up:
                    raise given_up
                self._refuse_outdated()
                heed()
                if time.monotonic() > until:
                    missing = [each for name, each in zip(names, who, strict=True) if not self._store.check([name])]
                    raise PeerLost(f"nothing was heard of {', '.join(missing)} within {timeout:g} s", hint=hint)
                time.sleep(_SECONDS_BETWEEN)
        return [self.look(name) for name in names]

    def post_pieces(self, name: str, values: Sequence[Any]) -> None:
        """Many values, in pieces: a store refuses more than several megabytes at once."""
        pieces = [values[at : at + _PIECE] for at in range(0, len(values), _PIECE)]
        for number, piece in enumerate(pieces):
            self.post(f"{name} {number}", piece)
        self.post(name, len(pieces))

    def wait_pieces(self, name: str, who: str) -> list[Any]:
        """What `post_pieces` posted, once it is there."""
        (pieces,) = self.wait([name], [who])
        return [each for number in range(pieces) for each in self.wait([f"{name} {number}"], [who])[0]]

    def meet(self) -> None:
        """Wait until all processes are here. PeerLost that names those that are not; UsageError where they cannot
        reach each other."""
        self.post(f"here {self.member.rank}", asdict(Listener.here(self.member.host)))
        hint = "start the missing ones, and check that they reach this address and port"
        found = self.wait(self._each("here"), self._each("rank"), hint=hint)
        refuse_unreachable([Listener(**each) for each in found])

    @contextmanager
    def telling(self, *, leave: bool = True) -> Iterator[None]:
        """If this process gives up, the others hear why; if it lost one that gave up, its error is that one's.

        `leave`: it ends then; False where its connections are still to be closed.
        """
        try:
            yield
        except Elsewhere:
            self.leave()
            raise
        except LayerlineError as error:
            given_up = None
            with suppress(PeerLost):
                given_up = self._given_up()
                if given_up is None and not isinstance(error, Stopped):
                    said = [f"rank {self.member.rank} gave up: {error.what}", error.hint, error.exit_status]
                    self.post("given up", said)
            if leave:
                self.leave()
            if given_up and isinstance(error, PeerLost):
                raise given_up from None
            raise

    def leave(self) -> None:
        """Done with the store. Whoever serves it stays for a while, until the others have done with it, too."""
        with suppress(PeerLost):
            self.post(f"left {self.member.rank}", True)
            until = time.monotonic() + _LINGER_SECONDS * self.member.serves
            with _asking():
                while not self._store.check(self._each("left")) and time.monotonic() < until:
                    time.sleep(_SECONDS_BETWEEN)

    def _each(self, what: str) -> list[str]:
        return [f"{what} {rank}" for rank in range(self.member.world)]

    def _refuse_outdated(self) -> None:
        """PeerLost where the processes were started again, without this one."""
        if outdated(self._all, self.generation):
            raise PeerLost("processes of this run were started again; this one is of the start before")

    def _given_up(self) -> LayerlineError | None:
        """The error of a process that gave up."""
        said = self.look("given up")
        if said is None:
            return None
        error = PeerLost(said[0], hint=said[1])
        error.exit_status = said[2]
        return error


@contextmanager
def _asking() -> Iterator[None]:
    try:
        yield
    except DistError:
        raise PeerLost("the store that the processes meet at is gone: its process has ended") from None
