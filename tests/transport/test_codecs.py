"""Codecs: what rounding left over is made good, both ends hold the same bits, and the bytes are as computed."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from torch import Tensor

from layerline.errors import LayerlineError, MessageRefused
from layerline.transport.codecs import Bf16, Codec, Fp32, Int8
from layerline.transport.link import Incoming, Outgoing
from layerline.transport.message import Key, Message

PAPER = [(2000, 784), (2000, 2000), (2000, 2000), (2000, 2000)]
FLOATS = st.floats(-1e6, 1e6, width=32)


def key(row: int, carries: str = "state", stage: int = 0) -> Key:
    return Key(row, carries, stage, row)


def refuse(why: str) -> MessageRefused:
    return MessageRefused(why)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_codec_is_chosen_by_its_kind() -> None:
    choose = TypeAdapter(Codec).validate_python
    assert [choose({"kind": kind}) for kind in ("fp32", "bf16", "int8")] == [Fp32(), Bf16(), Int8()]


@given(
    start=st.lists(st.lists(FLOATS, min_size=4, max_size=4), min_size=1, max_size=3),
    drift=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=8),
    first=st.sampled_from(["int8", "bf16", "exact"]),
)
def test_differences_follow_a_drifting_tensor_and_errors_do_not_add_up(
    start: list[list[float]], drift: list[float], first: Literal["int8", "bf16", "exact"]
) -> None:
    sender, receiver = Outgoing(0, 1, Int8(first=first)), Incoming()
    tensor, reference = torch.tensor(start), torch.zeros(len(start), 4)
    for row, change in enumerate(drift):
        tensor = tensor * (1 + change / 10) + change
        message, expected = sender.encode(key(row), {"w": tensor})
        decoded = receiver.decode(message, refuse)["w"]
        assert torch.equal(decoded, expected["w"])
        assert same(sender.tensors(), receiver.tensors())
        if row > 0 or first == "int8":
            # Half a step of this message alone, whatever was rounded before; and float32's own rounding.
            step = (tensor - reference).abs().amax(1, keepdim=True) / 127
            bound = step / 2 * (1 + 1e-4) + 1e-6 * (tensor.abs() + reference.abs()) + 1e-40
            assert bool(((decoded - tensor).abs() <= bound).all())
        reference = decoded


def test_a_tensor_that_stays_is_reached() -> None:
    sender = Outgoing(0, 1, Int8())
    tensor = torch.randn(50, 40, generator=torch.Generator().manual_seed(0))
    errors = [(sender.encode(key(row), {"w": tensor})[1]["w"] - tensor).abs().max().item() for row in range(5)]
    assert errors[0] < 0.02
    assert errors[1] < errors[0] / 100
    assert errors[-1] < 1e-6


def test_both_ends_are_a_function_of_the_messages_alone() -> None:
    draw = torch.Generator().manual_seed(1)
    sent = [{"w": torch.randn(5, 7, generator=draw), "b": torch.randn(5, generator=draw)} for _ in range(4)]
    encoded = []
    for _ in range(2):
        link = Outgoing(0, 1, Int8())
        encoded.append([link.encode(key(row), tensors)[0] for row, tensors in enumerate(sent)])
    for one, other in zip(*encoded, strict=True):
        assert one.table == other.table
        assert torch.equal(one.payload, other.payload)


def test_only_weights_are_rounded() -> None:
    draw = torch.Generator().manual_seed(2)
    tensors = {
        "weight": torch.randn(4, 4, generator=draw),
        "filters": torch.randn(3, 2, 2, 2, generator=draw),
        "bias": torch.randn(4, generator=draw),
        "optimizer.second.0": torch.rand(4, 4, generator=draw),
        "count": torch.tensor([[2**40, 1]]),
        "double": torch.randn(2, 2, generator=draw, dtype=torch.float64),
    }
    for codec in (Bf16(), Int8()):
        decoded = Incoming().decode(Outgoing(0, 1, codec).encode(key(0), tensors)[0], refuse)
        changed = {name for name in tensors if not torch.equal(decoded[name], tensors[name])}
        assert changed == {"weight", "filters"}
        assert all(decoded[name].dtype == tensors[name].dtype for name in tensors)


def test_outputs_are_rounded_to_bfloat16_and_leave_no_reference() -> None:
    outputs = torch.randn(6, 5, generator=torch.Generator().manual_seed(3))
    for codec in (Bf16(), Int8()):
        link = Outgoing(0, 1, codec)
        message, _ = link.encode(key(0, "outputs"), {"outputs": outputs})
        assert torch.equal(Incoming().decode(message, refuse)["outputs"], outputs.bfloat16().float())
        assert message.payload.numel() == 64
        assert link.tensors() == {}


def test_a_difference_from_what_the_receiver_does_not_hold_is_refused() -> None:
    link = Outgoing(0, 1, Int8())
    messages = [link.encode(key(row), {"w": torch.full((2, 2), row + 1.0)})[0] for row in range(3)]
    receiver = Incoming()
    receiver.decode(messages[0], refuse)
    with pytest.raises(MessageRefused, match="difference from row 1, this end holds that of row 0"):
        receiver.decode(messages[2], refuse)
    with pytest.raises(MessageRefused, match="difference from row 0, this end holds none"):
        Incoming().decode(messages[1], refuse)


def test_weights_that_are_no_numbers_are_not_sent() -> None:
    link = Outgoing(0, 1, Int8())
    link.encode(key(0), {"w": torch.ones(2, 2)})
    before = link.tensors()
    with pytest.raises(LayerlineError, match=r"w of the state of block 1 in chapter 2 .* is not finite"):
        link.encode(key(1), {"w": torch.tensor([[1.0, float("nan")], [1.0, 1.0]])})
    assert same(before, link.tensors())


def test_a_message_does_not_change_with_the_tensors_it_was_made_of() -> None:
    for codec in (Fp32(), Bf16(), Int8()):
        tensor = torch.ones(3, 3)
        link = Outgoing(0, 1, codec)
        message, _ = link.encode(key(0), {"w": tensor})
        tensor.zero_()
        assert torch.equal(Incoming().decode(message, refuse)["w"], torch.ones(3, 3))
        assert all(bool(reference.eq(1).all()) for reference in link.tensors().values())


def chapter(links: list[Outgoing], number: int) -> int:
    """Bytes on the wire of one chapter of All-Layers: every block of the paper's network once, parameters only."""
    messages: list[Message] = []
    for stage, (units, inputs) in enumerate(PAPER):
        draw = torch.Generator().manual_seed(number)
        block = {"weight": torch.randn(units, inputs, generator=draw), "bias": torch.randn(units, generator=draw)}
        messages.append(links[stage].encode(key(number, stage=stage), block)[0])
    return sum(message.nbytes for message in messages)


def test_the_traffic_of_the_papers_network_is_as_computed() -> None:
    parameters = sum(units * inputs + units for units, inputs in PAPER)
    assert parameters * 4 == 54_304_000
    full = chapter([Outgoing(0, 1, Fp32()) for _ in PAPER], 0)
    assert 0 < full - parameters * 4 < 2000  # headers and tables
    links = [Outgoing(0, 1, Int8()) for _ in PAPER]
    ratios = [chapter(links, number) / full for number in range(2)]
    assert all(0.25 < ratio < 0.2515 for ratio in ratios)  # the first message, too
    assert 0.5 < chapter([Outgoing(0, 1, Bf16()) for _ in PAPER], 0) / full < 0.501


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_of_a_stream_are_steps_from_zero(dtype: torch.dtype) -> None:
    """A scale for each example, nothing remembered: the same activations twice are the same bytes."""
    out, incoming = Outgoing(0, 1, Int8()), Incoming()
    x = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    for row in (7, 9):
        message, kept = out.encode(Key(row, "activations", 0, row), {"12,4,1": x})
        came = incoming.decode(message, lambda why: MessageRefused(why))["12,4,1"]
        assert torch.equal(came, kept["12,4,1"])
        assert came.dtype == dtype
        largest = x.float().abs().flatten(1).amax(1)
        off = (came.float() - x.float()).abs().flatten(1).amax(1)
        assert (off <= largest / 127 * (0.5 if dtype == torch.float32 else 1.5)).all()
        assert out.tensors() == incoming.tensors() == {}
    assert message.payload.numel() < x.numel() * 4 / 2


def test_gradients_of_a_stream_are_rounded() -> None:
    gradient = {"3,1": torch.randn(2, 3)}
    for codec, least in ((Fp32(), 24), (Bf16(), 16), (Int8(), 16)):
        message, _ = Outgoing(0, 1, codec).encode(Key(0, "gradients", 0, 0), gradient)
        assert message.payload.numel() == least
