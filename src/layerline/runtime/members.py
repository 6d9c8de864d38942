"""The processes of one run: who they are, where they meet, and what each lets the others know.

    started by layerline train --processes P     the launcher serves the store, on the loopback interface
    started by torchrun                          torchrun's own store, at MASTER_ADDR

Both set RANK and WORLD_SIZE. The store holds small facts only: who is there, how far each node is, what it measured.
Blocks and outputs travel by the transport.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

from torch.distributed import DistNetworkError, DistStoreError, PrefixStore, Store  # type: ignore[attr-defined]

from layerline.errors import PeerLost, UsageError
from layerline.schedules.plan import Plan
from layerline.transport.rendezvous import join_store, serve_store

STORE, GENERATION = "LAYERLINE_STORE", "LAYERLINE_GENERATION"
"""Set by our own launcher: address of its store, and how often it has started the processes."""


@dataclass(frozen=True)
class Membership:
    """This process's place in a run over several."""

    rank: int
    world: int
    host: str
    """This process's own address, to listen on."""
    generation: int
    """How often the processes were started."""
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
        generation = environment.get(GENERATION if launched else "TORCHELASTIC_RESTART_COUNT", "0")
        rank, world = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        return cls(rank, world, _own_address(where), int(generation), launched)

    def store(self, timeout: float) -> Store:
        """Where the processes meet. PeerLost where nobody serves it."""
        environment = os.environ
        if self.launched:
            host, _, port = environment[STORE].rpartition(":")
            return join_store(host, int(port), timeout=timeout)
        host, port = environment["MASTER_ADDR"], environment["MASTER_PORT"]
        if environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True" and self.rank == 0:
            return serve_store(host, int(port), timeout=timeout)
        return join_store(host, int(port), timeout=timeout)


def _own_address(peer: str) -> str:
    """This machine's address on the way to `peer`; no packet is sent."""
    with suppress(OSError), socket.socket(socket.AF_INET6 if ":" in peer else socket.AF_INET, socket.SOCK_DGRAM) as way:
        way.connect((peer, 9))
        return str(way.getsockname()[0])
    return "127.0.0.1"


def placement(plan: Plan, world: int) -> list[int]:
    """The process of every node. UsageError for more processes than nodes.

    Nodes that take turns with chapters are dealt out in turns, so that all processes have something to do; nodes that
    own blocks stay beside their neighbours.
    """
    if world > plan.nodes:
        raise UsageError(
            f"{world} processes for {plan.nodes} node{'s' * (plan.nodes > 1)}: each needs one at least",
            hint=f"start {plan.nodes}, or plan more: --nodes {world}",
        )
    if plan.schedule in ("all-layers", "federated"):
        return [node % world for node in range(plan.nodes)]
    return [node * world // plan.nodes for node in range(plan.nodes)]


class Board:
    """What the nodes let each other know, in the store. PeerLost where nobody serves it any more."""

    def __init__(self, store: Store, generation: int, timeout: float) -> None:
        self._store, self._timeout = PrefixStore(f"board/{generation}", store), timeout

    def post(self, name: str, value: Any) -> None:
        """Say something; the latest counts."""
        with _served():
            self._store.set(name, json.dumps(value))

    def look(self, name: str) -> Any:
        """What was said; None if nothing was, yet."""
        with _served():
            return json.loads(self._store.get(name)) if self._store.check([name]) else None

    def wait(self, names: Sequence[str], who: Sequence[str]) -> list[Any]:
        """Everything under these names, once it is there. PeerLost that says who is missing."""
        with _served():
            try:
                self._store.wait(list(names), timedelta(seconds=self._timeout))
            except DistStoreError:
                missing = [each for name, each in zip(names, who, strict=True) if not self._store.check([name])]
                raise PeerLost(f"nothing was heard of {', '.join(missing)} within {self._timeout:g} s") from None
            return [json.loads(self._store.get(name)) for name in names]


@contextmanager
def _served() -> Iterator[None]:
    try:
        yield
    except DistNetworkError:
        raise PeerLost("the launcher is gone: the store that the processes meet at does not answer") from None
