"""The messages of one node, where the way leads over a server: they come with a task, and go with its answer.

    participant 1 ── answer: parcels ──► server ── task: parcels ──► participant 2

A parcel is a message of the transport, header and body apart: the server reads headers and passes bodies on. One body
serves all readers who get the same bytes, so a block that goes to three nodes is uploaded once.

The server has a place in the plan's transport, too, after all nodes: finished blocks go there.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Container
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from layerline.schedules.plan import Plan
from layerline.transport.base import Transport
from layerline.transport.codecs import Bf16, Fp32, Int8
from layerline.transport.link import Incoming
from layerline.transport.message import Frame, Kind, Message, Wire

_TIMEOUT = 600.0


@dataclass(frozen=True, eq=False)
class Parcel:
    """A message in bytes."""

    header: bytes
    body: bytes

    @property
    def name(self) -> str:
        """What its body is called: SHA-256 over it."""
        return hashlib.sha256(self.body).hexdigest()

    @property
    def nbytes(self) -> int:
        """Of header and body."""
        return len(self.header) + len(self.body)

    @staticmethod
    def of(message: Message, plan: Plan) -> Parcel:
        """From a message of this plan."""
        header = Wire(bytes.fromhex(plan.digest()), 0, "").header(Kind.DATA, message)
        return Parcel(header, message.table + message.payload.numpy().tobytes())

    def frame(self, plan: Plan, peer: str) -> Frame:
        """What it is. MessageRefused, naming the peer it came from, where it is of another plan or damaged."""
        return Wire(bytes.fromhex(plan.digest()), 0, peer).read(self.header)

    def message(self, plan: Plan, peer: str) -> Message:
        """Read it all. MessageRefused as `frame`, and where the body is not what the header says."""
        wire = Wire(bytes.fromhex(plan.digest()), 0, peer)
        frame = wire.read(self.header)
        table, payload = self.body[: frame.table_bytes], bytearray(self.body[frame.table_bytes :])
        flat = torch.frombuffer(payload, dtype=torch.uint8) if payload else torch.empty(0, dtype=torch.uint8)
        return wire.message(frame, table, flat)

    def readdressed(self, plan: Plan, carries: str, to: int) -> Parcel:
        """The same for another node, or as something else. Not where it says differences from what a link carried."""
        message = self.message(plan, "a participant")
        return Parcel.of(replace(message, key=replace(message.key, carries=carries), to=to), plan)


@final
class Mailbox(Transport):
    """The end of `node` (of the server: the number of the plan's nodes)."""

    def __init__(self, plan: Plan, node: int, codec: Fp32 | Bf16 | Int8) -> None:
        # Every node is a process of its own, and the server is the one that finished blocks come home to: rank 0.
        super().__init__([*range(1, plan.nodes + 1), 0], (node + 1) % (plan.nodes + 1), codec, _TIMEOUT)
        self.plan, self.node = plan, node
        self._pending: dict[tuple[int, str, int], Parcel] = {}  # until the server has them: an answer can get lost

    def dispatch(self, message: Message) -> None:
        self._pending[message.key.row, message.key.carries, message.to] = Parcel.of(message, self.plan)

    def take(self, known: Container[int]) -> list[Parcel]:
        """What is to be sent. `known`: rows whose messages the server has, which are forgotten here."""
        self._pending = {name: parcel for name, parcel in self._pending.items() if name[0] not in known}
        return list(self._pending.values())

    def deliver(self, parcel: Parcel) -> None:
        """Something that came for this node. MessageRefused where it cannot be believed."""
        peer = "the server" if self.node < self.plan.nodes else "a participant"
        self._deliver(None, parcel.message(self.plan, peer), time.time(), Wire(b"\0" * 32, 0, peer).refuse)

    def references(self) -> dict[str, Tensor]:
        """What differences that come in later will start from, by sender and name."""
        links = self._incoming.items()
        return {f"{source}/{name}": tensor for (source, _), link in links for name, tensor in link.tensors().items()}

    def remember(self, saved: dict[str, Tensor]) -> None:
        """Take back what `references` gave, before anything is delivered."""
        parts: dict[int, dict[str, Tensor]] = {}
        for title, tensor in saved.items():
            source, _, name = title.partition("/")
            parts.setdefault(int(source), {})[name] = tensor
        for number, part in parts.items():
            self._incoming.setdefault((number, self.node), Incoming()).load(part)

    def close(self) -> None:
        """There is nothing to flush."""
