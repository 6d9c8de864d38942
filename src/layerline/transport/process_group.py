"""Logical nodes in several processes, connected by torch.distributed's gloo.

Two processes are connected where the plan has an edge between their nodes: a group of two for each such pair, under a
name with the generation of the start, so that what a killed process left in the store is nobody's peer. Tensors on a
GPU are brought to the host first: cheap beside a chapter, in which a block crosses once; in a stream it is part of
every step.
"""

from __future__ import annotations

import atexit
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import final

from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

from layerline.errors import PeerLost
from layerline.transport.base import Transport
from layerline.transport.channel import Channel
from layerline.transport.codecs import Bf16, Fp32, Int8
from layerline.transport.message import Message
from layerline.transport.pair import Pair
from layerline.transport.shared_memory import Inlet, Outlet, identity


@final
class ProcessGroup(Transport):
    """Transport of rank `rank`: the nodes that `placement` puts there, connected with those of other ranks.

    `links`: the plan's edges between nodes, (source, to). `plan`: its SHA-256, hexadecimal. `generation`: how often the
    processes of this run were started; never the same twice on one store. `timeout`: seconds a wait for a message, or
    for the flush, may take; `join`: for the peers to come; `silence`: after which a peer that says nothing is lost.
    `host`: this process's own address, to listen on; connections are neither encrypted nor authenticated. `shared`: a
    folder in memory (`shared_folder`) that large payloads go through between processes that see the same one. `delay`:
    seconds by which everything arrives later.

    PeerLost where a peer does not come.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        placement: Sequence[int],
        links: Iterable[tuple[int, int]],
        *,
        plan: str,
        generation: int = 0,
        codec: Fp32 | Bf16 | Int8 | None = None,
        timeout: float = 600.0,
        join: float = 120.0,
        silence: float = 60.0,
        host: str = "127.0.0.1",
        shared: Path | None = None,
        delay: float = 0.0,
    ) -> None:
        super().__init__(placement, rank, codec or Fp32(), timeout, delay)
        self._store = PrefixStore(f"layerline/{generation}", store)
        self._plan, self._generation = bytes.fromhex(plan), generation
        self._join, self._silence, self._host, self._shared = join, silence, host, shared
        self._pairs: dict[int, Pair] = {}
        if shared is not None:
            self._store.set(f"shared/{rank}", identity(shared))
        atexit.register(self._abandon)  # a thread that still waits would end the interpreter by a crash
        pairs = {tuple(sorted((placement[source], placement[to]))) for source, to in links}
        # The same order in every process: the smallest pair not yet made is next for both of its ranks.
        try:
            for low, high in sorted(pair for pair in pairs if rank in pair and pair[0] != pair[1]):
                self._pairs[high if rank == low else low] = self._connect(low, high)
        except PeerLost:  # or the peers that did come would go on hearing that this one is alive
            self._leave(join)
            raise

    def dispatch(self, message: Message) -> None:
        rank = self.placement[message.to]
        if rank == self.rank:
            self._deliver_here(message)
        else:
            self._pairs[rank].send(message, self.timeout)

    def close(self) -> None:
        """Flush what is queued and end the threads. PeerLost if something could not be delivered in time."""
        left = self._leave(self.timeout)
        if left:
            rank, unsent = next(iter(left.items()))
            raise PeerLost(f"{self.who(rank)} did not take the last {unsent} messages for it", rank=rank)

    def _leave(self, timeout: float) -> dict[int, int]:
        """End everything. How many messages were not delivered, by rank."""
        left = self._end(timeout)
        atexit.unregister(self._abandon)
        if self._line:
            self._line.close()
        return left

    def _end(self, timeout: float) -> dict[int, int]:
        """End all pairs. How many messages were not delivered, by rank."""
        pairs, self._pairs = self._pairs, {}
        for pair in pairs.values():
            pair.end()
        until = time.monotonic() + timeout
        return {rank: unsent for rank, pair in pairs.items() if (unsent := pair.join(until))}

    def _abandon(self) -> None:
        self._end(self._silence + 1)

    def _connect(self, low: int, high: int) -> Pair:
        peer = high if self.rank == low else low
        try:
            channel = Channel(
                self._store,
                f"pair/{low}-{high}",
                int(self.rank == high),
                host=self._host,
                timeout=self._join,
                silence=self._silence,
            )
        except (TimeoutError, ConnectionError):
            raise PeerLost(f"{self.who(peer)} did not connect within {self._join:g} s", rank=peer) from None
        return Pair(
            channel,
            self.who(peer),
            plan=self._plan,
            generation=self._generation,
            silence=self._silence,
            delivered=partial(self._deliver, peer),
            sent=partial(self._record, direction="send"),
            lost=partial(self._lose, peer),
            shared=self._segments(peer),
        )

    def _segments(self, peer: int) -> tuple[Outlet, Inlet] | None:
        """Shared memory with a peer, if both were given the same folder on the same host."""
        if self._shared is None:
            return None
        # The connection stands, so the peer has said before whether it shares.
        if not self._store.check([f"shared/{peer}"]) or self._store.get(f"shared/{peer}").decode() != identity(
            self._shared
        ):
            return None
        out, back = f"{self._generation}-{self.rank}-{peer}", f"{self._generation}-{peer}-{self.rank}"
        return Outlet(self._shared, out), Inlet(self._shared, back)
