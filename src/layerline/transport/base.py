"""The interface: what a logical node sends and receives, whatever process it lives in.

A `Transport` serves the logical nodes of one process; `at(node)` is one node's end of it. Messages between two nodes of
one process are encoded and decoded like all others, so that a codec gives the same bits however nodes are spread over
processes, and bytes are counted alike.

A message is decoded as it arrives, in the order it was sent in, and waits in the inbox until its row asks for it.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from threading import Condition
from types import TracebackType
from typing import Literal, Self, final

from torch import Tensor

from layerline.errors import LayerlineError, MessageRefused, PeerLost
from layerline.transport.codecs import Bf16, Fp32, Int8
from layerline.transport.delay import DelayLine
from layerline.transport.link import Incoming, Outgoing
from layerline.transport.message import Key, Message


@dataclass(frozen=True)
class Transfer:
    """One message on its way, for the trace: begin and end in seconds since 1970."""

    begin: float
    end: float
    key: Key
    peer: int
    """The node at the other end."""
    nbytes: int
    direction: Literal["send", "receive"]


class Transport(ABC):
    """The messages of the logical nodes of one process.

    `placement`: the rank every node lives on. `timeout`: seconds any wait may take, at most. `delay`: seconds by which
    everything arrives later than it does, to try distant nodes.
    """

    def __init__(
        self, placement: Sequence[int], rank: int, codec: Fp32 | Bf16 | Int8, timeout: float, delay: float = 0.0
    ) -> None:
        self.placement, self.rank, self.codec, self.timeout = tuple(placement), rank, codec, timeout
        self._line = DelayLine(delay) if delay else None
        self._inbox = _Inbox(self)
        self._incoming: dict[tuple[int, int], Incoming] = {}
        self._ends = {node: Endpoint(self, node) for node, place in enumerate(placement) if place == rank}

    @final
    def at(self, node: int) -> Endpoint:
        """A node's end. The node must live in this process."""
        return self._ends[node]

    @abstractmethod
    def dispatch(self, message: Message) -> None:
        """Take an encoded message to its node, or queue it. PeerLost where that is known to be gone."""

    @abstractmethod
    def close(self) -> None:
        """Flush what is queued, and end. PeerLost if something could not be delivered within `timeout`."""

    @final
    def who(self, rank: int) -> str:
        """How errors call a process: `rank 1 (nodes 2, 3)`."""
        nodes = [str(node) for node, place in enumerate(self.placement) if place == rank]
        return f"rank {rank} (node{'s' * (len(nodes) != 1)} {', '.join(nodes)})"

    @final
    def _deliver(
        self, bringer: int | None, message: Message, begin: float, refuse: Callable[[str], MessageRefused]
    ) -> None:
        """Decode a message into the inbox of its node. `bringer`: the rank that it came from; None: one for all."""
        link = (message.source, message.to)
        if message.to not in self._ends:
            raise refuse(f"{message.key} is for node {message.to}, which is not here")
        rank = next(iter(self.placement[message.source : message.source + 1]), None)
        if rank is None or bringer not in (None, rank):
            raise refuse(f"{message.key} is of node {message.source}, which is not there")
        tensors = self._incoming.setdefault(link, Incoming()).decode(message, refuse)

        def arrive() -> None:
            if not self._inbox.put(link, message.key, tensors):
                raise refuse(f"{message.key} came twice")
            self._record(message, begin, "receive")

        self._later(rank, arrive)

    @final
    def _lose(self, rank: int, why: LayerlineError) -> None:
        """Nothing more will come from a rank, after what is still on its way."""
        self._later(rank, partial(self._inbox.lose, rank, why))

    @final
    def _later(self, rank: int, arrive: Callable[[], None]) -> None:
        """What comes from a rank, when it has passed the line; errors are that rank's."""

        def passed() -> None:
            try:
                arrive()
            except LayerlineError as error:
                self._inbox.lose(rank, error)
            except Exception as error:  # a mistake of ours: whoever waits must not wait for it
                self._inbox.lose(rank, LayerlineError(f"what {self.who(rank)} sent could not be handled: {error!r}"))

        if self._line:
            self._line.put(passed)
        else:
            arrive()

    @final
    def _deliver_here(self, message: Message) -> None:
        """The way between two nodes of this process."""
        begin = time.time()
        refuse = lambda why: MessageRefused(f"node {message.source} sent what was refused: {why}")  # noqa: E731
        self._deliver(self.rank, message, begin, refuse)
        self._record(message, begin, "send")

    @final
    def _record(self, message: Message, begin: float, direction: Literal["send", "receive"]) -> None:
        node, peer = (message.source, message.to) if direction == "send" else (message.to, message.source)
        transfer = Transfer(begin, time.time(), message.key, peer, message.nbytes, direction)
        self._ends[node].events.append(transfer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except LayerlineError:
            if error is None:
                raise


@final
class Endpoint:
    """One logical node's end of the transport. Used by one thread at a time."""

    def __init__(self, transport: Transport, node: int) -> None:
        self.transport, self.node = transport, node
        self.bytes_sent: dict[int, int] = {}
        """Bytes for each destination node: headers, tables and payloads, also between nodes of one process."""
        self.events: list[Transfer] = []
        self._links: dict[int, Outgoing] = {}

    def send(self, key: Key, tensors: dict[str, Tensor], to: int, *, passing: bool = False) -> dict[str, Tensor]:
        """Queue a copy of `tensors` for node `to`; they may change as soon as this returns. `passing`: the next passing
        message of this kind takes its place, should it not have left by then.

        Returns what the reader will hold, to be read only: with a lossy codec that is what has to be kept with a
        finished slot, for `resend`. Without one it is `tensors` themselves. PeerLost where the node is gone, or has
        not taken earlier messages within the timeout.
        """
        message, decoded = self._link(to).encode(key, tensors)
        self._dispatch(replace(message, passing=passing))
        return decoded

    def resend(self, key: Key, decoded: dict[str, Tensor], to: int) -> None:
        """After a restart: bring node `to` what an earlier `send` returned, bit by bit."""
        self._dispatch(self._link(to).repeat(key, decoded))

    def receive(self, key: Key, source: int) -> dict[str, Tensor]:
        """The message `key` of node `source`, the caller's own; waits for it. Every message is given out once.

        PeerLost as soon as the node's process is known to be gone, at the latest after the timeout; MessageRefused if
        something came from there that cannot be believed.
        """
        return self.transport._inbox.take((source, self.node), key)

    def arrived(self, key: Key, source: int) -> bool:
        """Whether the message `key` of node `source` is here, so that `receive` would not wait."""
        return self.transport._inbox.has((source, self.node), key)

    def hand_over(self, source: int, takers: Mapping[str, Taker]) -> None:
        """Give messages of node `source` to the takers of their kinds as they come, in order, in the receiving thread.

        None of them waits here, so however slow the node is, no more is kept than takers keep. They may not wait. What
        has arrived already comes first: kinds whose order counts are to be handed over at once.
        """
        self.transport._inbox.hand_over((source, self.node), takers)

    def check(self, source: int) -> None:
        """PeerLost where nothing more will come from a node: its process is gone."""
        self.transport._inbox.check((source, self.node))

    def tensors(self) -> dict[str, Tensor]:
        """What the codecs of this node's outgoing links remember, to be saved after any `send`."""
        links = self._links.items()
        return {f"{to}.{name}": tensor for to, link in links for name, tensor in link.tensors().items()}

    def load(self, saved: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave, before the first `send` of a new process."""
        parts: dict[int, dict[str, Tensor]] = {}
        for title, tensor in saved.items():
            to, name = title.split(".", 1)
            parts.setdefault(int(to), {})[name] = tensor
        for node, part in parts.items():
            self._link(node).load(part)

    def _link(self, to: int) -> Outgoing:
        return self._links.setdefault(to, Outgoing(self.node, to, self.transport.codec))

    def _dispatch(self, message: Message) -> None:
        self.transport.dispatch(message)
        self.bytes_sent[message.to] = self.bytes_sent.get(message.to, 0) + message.nbytes


Link = tuple[int, int]
Taker = Callable[[Key, dict[str, Tensor]], None]


@final
class _Inbox:
    """What has arrived and was not asked for yet, by link and key."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._messages: dict[tuple[Link, Key], dict[str, Tensor]] = {}
        self._takers: dict[tuple[Link, str], Taker] = {}
        self._lost: dict[int, LayerlineError] = {}
        self._changed = Condition()

    def put(self, link: Link, key: Key, tensors: dict[str, Tensor]) -> bool:
        """False where it is already there."""
        with self._changed:
            if (link, key.carries) in self._takers:
                self._takers[link, key.carries](key, tensors)
                return True
            if (link, key) in self._messages:
                return False
            self._messages[link, key] = tensors
            self._changed.notify_all()
        return True

    def hand_over(self, link: Link, takers: Mapping[str, Taker]) -> None:
        """All of these kinds to their takers, what is here already first."""
        with self._changed:
            for place in [place for place in self._messages if place[0] == link and place[1].carries in takers]:
                takers[place[1].carries](place[1], self._messages.pop(place))
            self._takers |= {(link, carries): take for carries, take in takers.items()}

    def lose(self, rank: int, why: LayerlineError) -> None:
        """Nothing more will come from a rank; the first reason counts."""
        with self._changed:
            self._lost.setdefault(rank, why)
            self._changed.notify_all()

    def has(self, link: Link, key: Key) -> bool:
        """Whether a message is here."""
        with self._changed:
            return (link, key) in self._messages

    def check(self, link: Link) -> None:
        """PeerLost, or the error that made it so, where nothing more will come over a link."""
        lost = self._lost.get(self._transport.placement[link[0]])
        if lost is not None:
            raise lost

    def take(self, link: Link, key: Key) -> dict[str, Tensor]:
        """Wait for a message."""
        source, to = link
        rank, timeout = self._transport.placement[source], self._transport.timeout
        with self._changed:
            self._changed.wait_for(lambda: (link, key) in self._messages or rank in self._lost, timeout)
            if (link, key) in self._messages:
                return self._messages.pop((link, key))
        lost = self._lost.get(rank)
        if lost is not None and not isinstance(lost, PeerLost):
            raise lost
        why = lost.what if lost else f"{self._transport.who(rank)} is there, but took more than {timeout:g} s"
        raise PeerLost(f"{why}; node {to} waits for {key} from node {source}", node=source, rank=rank)
