"""The replay buffer with what it holds: in and out of a checkpoint, and as small as what was sent."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layerline.runtime.stream.replay import ReplayBuffer
from layerline.transport.boundary import Parcel, Plain, VectorQuantised


def parcel(step: int) -> Parcel:
    return {"outputs": torch.full((2, 3), float(step)), "labels": torch.tensor([step, step])}


@given(size=st.integers(1, 4), writes=st.lists(st.booleans(), max_size=30), cut=st.integers(0, 30))
def test_a_buffer_that_was_saved_goes_on_as_if_it_had_not_been(size: int, writes: list[bool], cut: int) -> None:
    buffer, step = ReplayBuffer(size, max_reuse=3), 0
    again = buffer
    for at, write in enumerate(writes):
        if at == cut:
            again = ReplayBuffer(size, max_reuse=3)
            again.load({name: tensor.clone() for name, tensor in buffer.tensors().items()})
        if write:
            for each in {id(buffer): buffer, id(again): again}.values():
                each.put(step, parcel(step))
            step += 1
        else:
            taken = buffer.take()
            other = taken if again is buffer else again.take()
            assert (taken is None) == (other is None)
            if taken and other:
                assert taken[0] == other[0] == int(other[1]["labels"][0])
                assert torch.equal(taken[1]["outputs"], other[1]["outputs"])
    assert len(buffer.parcels) == min(size, step)


def test_what_is_no_state_is_refused() -> None:
    buffer = ReplayBuffer(2)
    buffer.put(0, parcel(0))
    state = buffer.tensors()
    with pytest.raises(RuntimeError, match="belongs to no minibatch"):
        ReplayBuffer(2).load(state | {"7.labels": torch.zeros(2)})
    with pytest.raises(RuntimeError, match="for a buffer of 1"):
        ReplayBuffer(1).load({"ring": torch.tensor([[0, 1], [1, 1]]), "0.a": torch.zeros(1), "1.a": torch.zeros(1)})


def test_a_buffer_of_indices_is_small() -> None:
    sizes = []
    for boundary in (Plain(), VectorQuantised(dims=8, codes=256, refresh=100)):
        sender, receiver = boundary.ends(
            boundary.codes_for((64, 8, 8)),
            torch.float32,
            lambda version: torch.Generator().manual_seed(version),
            torch.device("cpu"),
        )
        buffer = ReplayBuffer(5)
        for step in range(7):
            buffer.put(step, receiver.accept(sender.encode(torch.randn(32, 64, 8, 8))))
        sizes.append(sum(tensor.nbytes for parcel in buffer.parcels for tensor in parcel.values()))
    assert sizes[0] == 5 * 32 * 64 * 8 * 8 * 4
    assert sizes[0] / sizes[1] > 31.9, "32 but for the version and the shape of each minibatch"
