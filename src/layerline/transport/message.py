"""A message on the wire: a header of fixed size, a table, and the bytes of the tensors.

Problem: the layer below delivers bytes and no more. A short message in a long buffer succeeds with garbage in its
tail, and a peer that runs another version or another plan is noticed by nobody. Solution: a header that says all about
what follows, checked field by field before anything is believed, and a checksum over the rest.

    1 header    magic, version | kind, generation, plan | source, to, row, stage, chapter, carries | lengths, checksums
    2 table     JSON: what each record is (`Record`), padded to 8 bytes
    3 payload   the records' bytes, little-endian, each piece padded to 8 bytes

Nothing in it can run code: struct, JSON and raw numbers only.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from layerline.errors import MessageRefused

PROTOCOL = 3
"""Version of the format; peers of another version are refused."""
SAME_RUN = "start the same version of Layerline with the same run on all machines"
"""What to do about a message that was refused."""
ALIGN = 8
LARGEST = 2**37
"""Bytes of a body, at most: what a damaged length may not ask of the memory."""

IN_STREAMS = frozenset({"activations", "gradients", "turn", "followed", "parcel", "mark", "enough", "record", "final"})
"""What travels in streams only: of a row; a minibatch between blocks that run freely; that a snapshot is cut here; that
no more is wanted; at the end, a node's events and a finished block."""

_MAGIC = b"layerlin"
_LAYOUT = struct.Struct("<8sHHI32siiqii16sQIIQII")
HEADER_BYTES = _LAYOUT.size

_DTYPES = ("float32", "bfloat16", "float16", "float64", "uint8", "int8", "int16", "int32", "int64", "bool")
DTYPES = {name: getattr(torch, name) for name in _DTYPES}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Key:
    """What a message holds: one row's result, named alike by sender and receiver."""

    row: int
    """The row of the plan that made it."""
    carries: str
    """What of it, at most 16 letters: `state`, `weights`, `outputs` or `labels`, or one of `IN_STREAMS`."""
    stage: int
    """The row's stage, from 0."""
    chapter: int
    """The row's chapter, in a stream its step, from 0."""

    def __str__(self) -> str:
        when = "step" if self.carries in IN_STREAMS else "chapter"
        return f"the {self.carries} of block {self.stage + 1} in {when} {self.chapter + 1:,} (row {self.row:,})"


class Kind(IntEnum):
    """What a frame is for."""

    DATA = 1
    ALIVE = 2
    """Nothing to send for a while, and still there."""
    BYE = 3
    """Nothing will follow. The sender waits until it was read, and so everything before it."""
    PASSING = 4
    """Data that the next of its kind may replace. The sender waits until it was taken."""


@dataclass(frozen=True)
class Record:
    """One entry of the table: how the bytes of one tensor are to be read.

    `cast`: the tensor in type `wire`. `reference`: the same, and both ends keep it as the version that differences
    start from. `difference`: a float32 scale for each row (output unit) and int8 steps, to be added to the version of
    row `base`, or to zero where `base` is None. A name may come twice: a reference, then a difference from it.
    """

    name: str
    coding: str
    dtype: str
    wire: str
    shape: tuple[int, ...]
    base: int | None = None

    @property
    def pieces(self) -> list[tuple[torch.dtype, tuple[int, ...]]]:
        """Type and shape of the arrays that stand in the payload for it."""
        if self.coding == "difference":
            return [(torch.float32, self.shape[:1]), (torch.int8, self.shape)]
        return [(DTYPES[self.wire], self.shape)]


@dataclass(frozen=True, eq=False)
class Message:
    """Encoded tensors on their way from node `source` to node `to`."""

    key: Key
    source: int
    to: int
    table: bytes
    payload: Tensor
    """uint8, flat."""
    passing: bool = False
    """Whether the next of its kind may take its place as long as it has not left."""

    @property
    def nbytes(self) -> int:
        """Bytes on the wire, header included."""
        return HEADER_BYTES + len(self.table) + self.payload.numel()


@dataclass(frozen=True)
class Frame:
    """A header that has been read and believed."""

    kind: Kind
    key: Key
    source: int
    to: int
    sequence: int
    segment: int
    """Where the body lies in shared memory: number of the segment; 0: it follows on the wire."""
    table_bytes: int
    payload_bytes: int
    checksum: int


def pack(records: Sequence[tuple[Record, Sequence[Tensor]]]) -> tuple[bytes, Tensor]:
    """Table and payload; the tensors are copied (and cast to the record's wire type) into the payload."""
    table = json.dumps([[r.name, r.coding, r.dtype, r.wire, r.shape, r.base] for r, _ in records]).encode()
    table += b" " * (-len(table) % ALIGN)
    places = [place for record, _ in records for place in record.pieces]
    payload = torch.empty(sum(_padded(*place) for place in places), dtype=torch.uint8)
    offset = 0
    tensors = [tensor for _, pieces in records for tensor in pieces]
    for (dtype, shape), tensor in zip(places, tensors, strict=True):
        end = offset + math.prod(shape) * dtype.itemsize
        payload[offset:end].view(dtype).view(shape).copy_(tensor)
        offset += _padded(dtype, shape)
        payload[end:offset] = 0
    return table, payload


def unpack(table: bytes, payload: Tensor, refuse: Callable[[str], MessageRefused]) -> list[tuple[Record, list[Tensor]]]:
    """The records, as views of the payload. MessageRefused (made by `refuse`) where table and payload don't fit."""
    records = _read_table(table, refuse)
    expected = sum(_padded(*place) for record in records for place in record.pieces)
    if expected != payload.numel():
        raise refuse(f"its table describes {expected} bytes of payload, {payload.numel()} came")
    offset, read = 0, []
    for record in records:
        pieces = []
        for dtype, shape in record.pieces:
            end = offset + math.prod(shape) * dtype.itemsize
            pieces.append(payload[offset:end].view(dtype).view(shape))
            offset += _padded(dtype, shape)
        read.append((record, pieces))
    return read


def _padded(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    size = math.prod(shape) * dtype.itemsize
    return size + -size % ALIGN


def _read_table(table: bytes, refuse: Callable[[str], MessageRefused]) -> list[Record]:
    try:
        rows = json.loads(table)
        records = [
            Record(name, coding, dtype, wire, tuple(shape), base) for name, coding, dtype, wire, shape, base in rows
        ]
    except (ValueError, TypeError, RecursionError):
        raise refuse("its table cannot be read") from None
    for record in records:
        known = record.coding in ("cast", "reference", "difference")
        known = known and record.dtype in _DTYPES and record.wire in _DTYPES
        sizes = all(type(size) is int and 0 <= size <= LARGEST for size in record.shape)
        whole = record.coding != "difference" or len(record.shape) > 0
        base = record.base is None or type(record.base) is int
        if not (isinstance(record.name, str) and known and sizes and whole and base):
            raise refuse(f"its table has a record it should not have: {record}"[:200])
    return records


class Wire:
    """Writes and reads the headers of one direction of a pair; counts its frames.

    `plan`: SHA-256 of the plan, 32 bytes. `generation`: how often the run's processes were started. `peer`: how errors
    call the other end.
    """

    def __init__(self, plan: bytes, generation: int, peer: str) -> None:
        assert len(plan) == 32, "a SHA-256"
        self.plan, self.generation, self.peer = plan, generation, peer
        self._next = 0

    def header(self, kind: Kind, message: Message | None = None, segment: int = 0) -> bytes:
        """The next frame's header."""
        if message is None:
            message = Message(Key(0, "", 0, 0), 0, 0, b"", torch.empty(0, dtype=torch.uint8))
        key = message.key
        start = _LAYOUT.pack(
            *(_MAGIC, PROTOCOL, kind, self.generation, self.plan),
            *(message.source, message.to, key.row, key.stage, key.chapter, key.carries.encode("ascii")),
            *(
                self._next,
                segment,
                len(message.table),
                message.payload.numel(),
                checksum(message.table, message.payload),
            ),
            0,
        )[:-4]
        self._next += 1
        return start + struct.pack("<I", zlib.crc32(start))

    def read(self, header: bytes) -> Frame:
        """The next frame. MessageRefused, naming the peer and what differs, where a field is not as it must be."""
        if len(header) != HEADER_BYTES:
            raise self.refuse(f"its header has {len(header)} bytes, not {HEADER_BYTES}")
        (magic, version, kind, generation, plan, source, to, row, stage, chapter, carries, sequence) = _LAYOUT.unpack(
            header
        )[:12]
        segment, table_bytes, payload_bytes, body, own = _LAYOUT.unpack(header)[12:]
        if magic != _MAGIC:
            raise self.refuse("it is not one of ours")
        if version != PROTOCOL:
            raise self.refuse(f"it speaks version {version} of the protocol, this process version {PROTOCOL}")
        if own != zlib.crc32(header[:-4]):
            raise self.refuse("its header is damaged: the checksum differs")
        if plan != self.plan:
            raise self.refuse(f"it follows another plan: {plan.hex()[:12]}…, this process {self.plan.hex()[:12]}…")
        if generation != self.generation:
            raise self.refuse(f"it is of start {generation} of the run, this process of start {self.generation}")
        if sequence != self._next:
            raise self.refuse(f"it is number {sequence}, expected was number {self._next}")
        if kind not in set(Kind) or table_bytes + payload_bytes > LARGEST:
            raise self.refuse(f"kind {kind} with {table_bytes + payload_bytes} bytes is not one we know")
        self._next += 1
        key = Key(row, carries.rstrip(b"\0").decode("ascii", "replace"), stage, chapter)
        return Frame(Kind(kind), key, source, to, sequence, segment, table_bytes, payload_bytes, body)

    def message(self, frame: Frame, table: bytes, payload: Tensor) -> Message:
        """The message of a frame, its table and payload (uint8). MessageRefused if it is truncated or damaged."""
        came, told = len(table) + payload.numel(), frame.table_bytes + frame.payload_bytes
        if (len(table), payload.numel()) != (frame.table_bytes, frame.payload_bytes):
            raise self.refuse(f"{frame.key} has {came} bytes, its header tells of {told}")
        if checksum(table, payload) != frame.checksum:
            raise self.refuse(f"{frame.key} is damaged: the checksum differs")
        return Message(frame.key, frame.source, frame.to, table, payload)

    def refuse(self, why: str) -> MessageRefused:
        """The error for a message from the peer."""
        return MessageRefused(f"a message from {self.peer} was refused: {why}", hint=SAME_RUN)


def checksum(table: bytes, payload: Tensor) -> int:
    """CRC-32 over table and payload."""
    return zlib.crc32(payload.numpy().data, zlib.crc32(table))
