"""Messages: everything comes back as it went, and nothing damaged or foreign is believed."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from layerline.errors import MessageRefused
from layerline.transport.channel import as_bytes, as_tensor
from layerline.transport.codecs import Fp32
from layerline.transport.link import Incoming, Outgoing
from layerline.transport.message import DTYPES, HEADER_BYTES, PROTOCOL, Frame, Key, Kind, Message, Wire, unpack

PLAN = bytes(range(32))
WORDS = st.text(min_size=1, max_size=12)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    values = torch.randint(-300, 300, shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    return values.to(dtype)


KEYS = st.builds(
    Key,
    row=st.integers(0, 2**31 - 1),
    carries=st.sampled_from(["state", "weights", "outputs", "labels"]),
    stage=st.integers(0, 1000),
    chapter=st.integers(0, 10**6),
)
NAMED = st.dictionaries(WORDS, tensors(), max_size=4)


def written(wire: Wire, message: Message) -> bytes:
    return wire.header(Kind.DATA, message) + message.table + as_bytes(message.payload)


def read(wire: Wire, frame_bytes: bytes) -> Message:
    frame: Frame = wire.read(frame_bytes[:HEADER_BYTES])
    body = frame_bytes[HEADER_BYTES:]
    return wire.message(frame, body[: frame.table_bytes], as_tensor(body[frame.table_bytes :]))


def wire(plan: bytes = PLAN, generation: int = 3) -> Wire:
    return Wire(plan, generation, "rank 7 (node 9)")


@given(key=KEYS, named=NAMED)
def test_tensors_of_every_kind_come_back_as_they_went(key: Key, named: dict[str, Tensor]) -> None:
    message, _ = Outgoing(4, 9, Fp32()).encode(key, named)
    got = read(wire(), written(wire(), message))
    assert (got.key, got.source, got.to, got.nbytes) == (key, 4, 9, message.nbytes)
    decoded = Incoming().decode(got, wire().refuse)
    assert list(decoded) == list(named)
    for name, tensor in named.items():
        assert decoded[name].dtype == tensor.dtype
        assert decoded[name].shape == tensor.shape
        assert torch.equal(decoded[name], tensor)


@settings(max_examples=300)
@given(key=KEYS, named=NAMED, place=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
def test_a_flipped_byte_anywhere_is_refused(key: Key, named: dict[str, Tensor], place: float, change: int) -> None:
    content = bytearray(written(wire(), Outgoing(0, 1, Fp32()).encode(key, named)[0]))
    content[int(place * len(content))] ^= change
    with pytest.raises(MessageRefused, match=r"rank 7 \(node 9\)"):
        read(wire(), bytes(content))


@given(key=KEYS, named=NAMED, place=st.floats(0, 1, exclude_max=True))
def test_a_truncated_message_is_refused(key: Key, named: dict[str, Tensor], place: float) -> None:
    content = written(wire(), Outgoing(0, 1, Fp32()).encode(key, named)[0])
    with pytest.raises(MessageRefused, match=r"bytes"):
        read(wire(), content[: int(place * len(content))])


def test_a_strangers_message_is_refused_with_what_differs() -> None:
    message, _ = Outgoing(0, 1, Fp32()).encode(Key(1, "labels", 0, 0), {"x": torch.arange(3)})
    content = written(wire(), message)
    for reader, why in (
        (wire(plan=bytes(32)), "another plan: 000102030405…, this process 000000000000…"),
        (wire(generation=4), "start 3 of the run, this process of start 4"),
    ):
        with pytest.raises(MessageRefused, match=why):
            read(reader, content)
    later = content[:8] + (PROTOCOL + 1).to_bytes(2, "little") + content[10:]
    with pytest.raises(MessageRefused, match=f"speaks version {PROTOCOL + 1} of the protocol, this process version"):
        read(wire(), later)
    with pytest.raises(MessageRefused, match="not one of ours"):
        read(wire(), b"GET / HTTP/1.1\r\n" + content[16:])


def test_a_message_that_was_lost_or_doubled_is_noticed() -> None:
    sender, reader = wire(), wire()
    headers = [sender.header(Kind.ALIVE) for _ in range(3)]
    assert reader.read(headers[0]).kind == Kind.ALIVE
    for wrong in (headers[0], headers[2]):
        with pytest.raises(MessageRefused, match="expected was number 1"):
            reader.read(wrong)
    assert reader.read(headers[1]).sequence == 1


@pytest.mark.parametrize(
    "table",
    [
        "",
        "no json",
        "{}x",
        "[1]",
        '[["x"]]',
        '[["x", "run", "uint8", "uint8", [8], null]]',
        '[["x", "cast", "complex64", "uint8", [8], null]]',
        '[["x", "cast", "uint8", ["uint8"], [8], null]]',
        '[["x", "cast", "uint8", "uint8", [-8], null]]',
        '[["x", "cast", "uint8", "uint8", [9], null]]',
        '[["x", "cast", "uint8", "uint8", ["8"], null]]',
        '[["x", "cast", "uint8", "uint8", [1e3], null]]',
        '[["x", "cast", "uint8", "uint8", 8, null]]',
        '[["x", "cast", "uint8", "uint8", [99999999999999999999999], null]]',
        '[["x", "difference", "float32", "int8", [], null]]',
        '[["x", "difference", "float32", "int8", [2, 2], "0"]]',
        '[[8, "cast", "uint8", "uint8", [8], null]]',
        "[" * 100_000,
    ],
)
def test_a_table_that_does_not_describe_the_payload_is_refused(table: str) -> None:
    with pytest.raises(MessageRefused):
        unpack(table.encode(), torch.zeros(8, dtype=torch.uint8), wire().refuse)


def test_labels_travel_in_the_smallest_type_that_holds_them() -> None:
    link = Outgoing(0, 1, Fp32())
    for largest, size in ((9, 1), (255, 1), (256, 2), (40_000, 4), (2**40, 8)):
        labels = torch.zeros(1000, dtype=torch.int64)
        labels[7] = largest
        message, _ = link.encode(Key(0, "labels", 0, 0), {"labels": labels})
        assert message.payload.numel() == 1000 * size
        decoded = Incoming().decode(message, wire().refuse)["labels"]
        assert decoded.dtype == torch.int64
        assert torch.equal(decoded, labels)


def test_the_table_holds_what_a_reader_needs_and_no_more() -> None:
    message, _ = Outgoing(0, 1, Fp32()).encode(Key(0, "state", 0, 0), {"weight": torch.zeros(2, 3)})
    assert json.loads(message.table) == [["weight", "cast", "float32", "float32", [2, 3], None]]


def test_errors_count_chapters_in_chapters_and_steps_in_streams() -> None:
    """Who waited for a minibatch of a stream was told of "chapter 704"."""
    assert str(Key(9, "state", 1, 703)) == "the state of block 2 in chapter 704 (row 9)"
    assert str(Key(9856, "activations", 1, 703)) == "the activations of block 2 in step 704 (row 9,856)"
    assert str(Key(5, "parcel", 0, 5)) == "the parcel of block 1 in step 6 (row 5)"
