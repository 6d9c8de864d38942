"""What crosses a boundary: how small it is, how near what arrives is, and that it is decoded with its own codes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from layerline.errors import UsageError
from layerline.transport.boundary import (
    BaseBoundary,
    Bf16Outputs,
    Int8Outputs,
    Plain,
    QuantisingReceiver,
    QuantisingSender,
    Receiver,
    Sender,
    VectorQuantised,
)
from layerline.transport.vector_quantiser import bits, chosen, grouped, nearest, pack, summed, ungrouped, unpack


def draw(version: int) -> Generator:
    return Generator().manual_seed(version)


def ends(boundary: BaseBoundary, shape: tuple[int, ...]) -> tuple[Sender, Receiver]:
    return boundary.ends(boundary.codes_for(shape), torch.float32, draw, torch.device("cpu"))


def clusters(examples: int, shape: tuple[int, ...], seed: int = 0, drift: float = 0.0) -> Tensor:
    """Outputs near a few directions, as channels of a network are."""
    noise = Generator().manual_seed(seed)
    centres = 3 * torch.randn(6, shape[0], generator=Generator().manual_seed(99)) + drift
    pixels = torch.randint(6, (examples, *shape[1:]), generator=noise)
    h = centres[pixels].movedim(-1, 1)
    return h + 0.05 * torch.randn(h.shape, generator=noise)


@given(
    entries=st.integers(2, 32768),
    indices=st.lists(st.integers(0, 10**6), min_size=1, max_size=50),
)
def test_indices_survive_packing(entries: int, indices: list[int]) -> None:
    width = bits(entries)
    tensor = torch.tensor([index % entries for index in indices])
    packed = pack(tensor, width)
    assert packed.nbytes == -(-len(indices) * width // 8)
    assert torch.equal(unpack(packed, width, len(indices)), tensor)


@pytest.mark.parametrize(
    ("entries", "width"), [(2, 1), (3, 2), (4, 2), (16, 4), (17, 5), (128, 7), (256, 8), (257, 9), (32768, 15)]
)
def test_bits(entries: int, width: int) -> None:
    assert bits(entries) == width


def test_an_index_of_no_code_is_refused() -> None:
    """Three bits could say 6 and 7."""
    sender, receiver = ends(VectorQuantised(dims=4, codes=6), (4,))
    parcel = receiver.accept(sender.encode(torch.randn(5, 4)))
    for index in range(8):
        one = parcel | {"indices": pack(torch.full((5,), index), 3)}
        if index < 6:
            assert receiver.decode(one).shape == (5, 4)
        else:
            with pytest.raises(ValueError, match=f"an index is {index}, and there are 6 codes"):
                receiver.decode(one)


@pytest.mark.parametrize("shape", [(3, 8, 4, 5), (3, 7, 8), (3, 8)])
def test_vectors_are_channels_of_a_position(shape: tuple[int, ...]) -> None:
    h = torch.randn(shape)
    x = grouped(h, 4)
    positions = h.movedim(1, -1) if len(shape) == 4 else h
    assert torch.equal(x[5 % len(x), 1], positions.reshape(-1, 8)[5 % len(x), 4:])
    assert torch.equal(ungrouped(x, shape), h)


def test_the_nearest_code_is_found_and_so_is_its_distance() -> None:
    draws = Generator().manual_seed(1)
    x, codes = torch.randn(40, 3, 4, generator=draws), torch.randn(3, 7, 4, generator=draws)
    distance = (x[:, :, None] - codes).square().sum(-1)
    indices, nearness = nearest(x, codes)
    assert torch.equal(indices, distance.argmin(2))
    assert x.square().sum() - nearness == pytest.approx(float(distance.amin(2).sum()), rel=1e-4)
    assert torch.equal(chosen(codes, indices)[7, 2], codes[2, indices[7, 2]])


@settings(max_examples=40, deadline=None)
@given(
    count=st.sampled_from([1, 2, 15, 16, 17, 700]),
    groups=st.integers(1, 3),
    dims=st.integers(1, 5),
    entries=st.sampled_from([2, 3, 16, 257, 4096]),
    seed=st.integers(0, 99),
)
def test_nearest_codes_and_their_means_are_those_written_out(
    count: int, groups: int, dims: int, entries: int, seed: int
) -> None:
    """Over the borders of chunks, too; whole numbers, so there are ties (the first code wins) and sums are exact."""
    draws = Generator().manual_seed(seed)
    x = torch.randint(-3, 4, (count, groups, dims), generator=draws).float()
    codes = torch.randint(-3, 4, (groups, entries, dims), generator=draws).float()
    indices, nearness = nearest(x, codes)
    counts, sums = torch.zeros(groups, entries), torch.zeros(groups, entries, dims)
    error = 0.0
    for group in range(groups):
        for vector, index in zip(x[:, group], indices[:, group].tolist(), strict=True):
            distances = (codes[group] - vector).square().sum(1)
            assert index == int((distances == distances.min()).nonzero()[0])
            error += float(distances[index])
            counts[group, index] += 1
            sums[group, index] += vector
    assert float(x.square().sum() - nearness) == error
    assert all(
        torch.equal(ours, plain) for ours, plain in zip(summed(x, indices, entries), (counts, sums), strict=True)
    )
    assert torch.equal(chosen(codes, indices)[:, -1], codes[-1][indices[:, -1]])


def test_the_same_outputs_give_the_same_bits() -> None:
    def coded() -> list[Tensor]:
        sender, _ = ends(VectorQuantised(dims=4, codes=16, decay=0.6, refresh=2), (16, 8, 8))
        assert isinstance(sender, QuantisingSender)
        parcels = [
            sender.encode(torch.randn(32, 16, 8, 8, generator=Generator().manual_seed(step))) for step in range(5)
        ]
        return [parcel["indices"] for parcel in parcels] + list(sender.tensors().values())

    assert all(torch.equal(one, other) for one, other in zip(coded(), coded(), strict=True))


def test_what_arrives_has_the_precision_of_the_run() -> None:
    boundary, h = VectorQuantised(dims=4, codes=16), clusters(7, (8, 3, 3)).bfloat16()
    sender, receiver = boundary.ends(boundary.codes_for((8, 3, 3)), torch.bfloat16, draw, torch.device("cpu"))
    assert isinstance(sender, QuantisingSender)
    arrived = receiver.decode(receiver.accept(sender.encode(h)))
    expected = chosen(sender.book.codes_GKD, nearest(grouped(h, 4), sender.book.codes_GKD)[0])
    assert arrived.dtype == torch.bfloat16
    assert torch.equal(arrived, ungrouped(expected, h.shape).bfloat16())


@pytest.mark.parametrize("boundary", [Plain(), Bf16Outputs(), Int8Outputs(), VectorQuantised(dims=4, codes=16)])
def test_prediction_gets_what_arrives_in_training(boundary: BaseBoundary) -> None:
    codes = boundary.codes_for((8, 3, 3))
    sender, receiver = boundary.ends(codes, torch.float32, draw, torch.device("cpu"))
    for step in range(5):
        h = clusters(7, (8, 3, 3), seed=step)
        arrived = receiver.decode(receiver.accept(sender.encode(h)))
        assert torch.equal(boundary.arriving(h, codes, torch.float32), arrived), "the codes are the sender's"


@settings(max_examples=20, deadline=None)
@given(
    decay=st.sampled_from([0.0, 0.6, 0.99]),
    refresh=st.integers(1, 4),
    order=st.permutations(range(8)),
)
def test_a_parcel_is_decoded_with_the_codes_that_coded_it(decay: float, refresh: int, order: list[int]) -> None:
    """However long it waited, and however far the codes have moved since."""
    sender, receiver = ends(VectorQuantised(dims=4, codes=8, decay=decay, refresh=refresh), (8, 3, 3))
    assert isinstance(sender, QuantisingSender)
    parcels, expected = [], []
    for step in range(8):
        h = clusters(5, (8, 3, 3), step, drift=float(step))
        parcels.append(receiver.accept(sender.encode(h)))
        indices, _ = nearest(grouped(h, 4), sender.book.codes_GKD)
        expected.append(ungrouped(chosen(sender.book.codes_GKD.clone(), indices), h.shape))
    for step in order:
        assert torch.equal(receiver.decode(parcels[step]), expected[step])
    assert len({int(parcel["version"]) for parcel in parcels}) > 1


def test_versions_that_nothing_needs_are_dropped() -> None:
    sender, receiver = ends(VectorQuantised(dims=4, codes=4, refresh=1), (8,))
    assert isinstance(receiver, QuantisingReceiver)
    parcels = [receiver.accept(sender.encode(torch.randn(9, 8))) for _ in range(5)]
    assert sorted(receiver.versions) == [1, 2, 3, 4, 5]
    receiver.keep(parcels[1:2])
    assert sorted(receiver.versions) == [2, 5], "the one needed, and the latest"


def test_only_indices_travel() -> None:
    sender, _ = ends(VectorQuantised(dims=8, codes=256, refresh=1000), (64, 8, 8))
    for _ in range(2):  # the first versions are soon outdated
        sender.encode(clusters(16, (64, 8, 8)))
    parcel = sender.encode(clusters(16, (64, 8, 8)))
    assert parcel["indices"].nbytes == 16 * 64 * 8 * 8 // 8, "a byte for eight channels: 32 times less than float32"
    assert set(parcel) == {"indices", "version", "shape"}


def test_the_codes_follow_outputs_that_move() -> None:
    sender, receiver = ends(VectorQuantised(dims=8, codes=16, decay=0.6, refresh=2), (8, 4, 4))
    for step in range(60):
        h = clusters(8, (8, 4, 4), step, drift=step / 10)
        arrived = receiver.decode(receiver.accept(sender.encode(h)))
        receiver.keep([])
    error = (arrived - h).norm() / h.norm()
    assert error < 0.05, "noise is 0.05 beside centres of size 3; what stood still would be wrong by several times 3"


def test_the_first_codes_are_vectors_of_the_first_minibatch() -> None:
    sender, receiver = ends(VectorQuantised(dims=4, codes=16), (8,))
    h = torch.randn(9, 8, generator=Generator().manual_seed(5))
    arrived = receiver.decode(receiver.accept(sender.encode(h)))
    ours = {tuple(vector) for vector in grouped(h, 4).flatten(0, 1).tolist()}
    assert {tuple(vector) for vector in grouped(arrived, 4).flatten(0, 1).tolist()} <= ours


def test_running_means_are_those_written_out_by_hand() -> None:
    boundary = VectorQuantised(dims=2, codes=2, decay=0.75, refresh=1000)
    sender, _ = ends(boundary, (2,))
    assert isinstance(sender, QuantisingSender)
    h = torch.tensor([[0.0, 0.0], [1.0, 0.0], [10.0, 0.0]])
    sender.encode(h)
    book = sender.book
    book.codes_GKD.copy_(torch.tensor([[[0.0, 0.0], [10.0, 0.0]]]))
    book.count_GK.copy_(torch.tensor([[4.0, 4.0]]))
    book.sum_GKD.copy_(4 * book.codes_GKD)
    book.age.zero_()
    book.version.fill_(5)
    sender.encode(h)
    assert book.count_GK.tolist() == [[0.75 * 4 + 0.25 * 2, 0.75 * 4 + 0.25 * 1]]
    assert book.sum_GKD.tolist() == [[[0.25 * 1.0, 0.0], [0.75 * 40 + 0.25 * 10.0, 0.0]]]
    book.publish(grouped(h, 2))
    torch.testing.assert_close(book.codes_GKD, torch.tensor([[[0.25 / 3.5, 0.0], [10.0, 0.0]]]), rtol=1e-4, atol=1e-4)


def test_dead_codes_go_to_vectors_of_the_minibatch_the_same_each_time() -> None:
    def after() -> Tensor:
        sender, _ = ends(VectorQuantised(dims=4, codes=6, decay=0.5, refresh=1), (4,))
        assert isinstance(sender, QuantisingSender)
        sender.encode(torch.zeros(50, 4) + torch.arange(50)[:, None])
        sender.book.codes_GKD[0, 3:] = 1e6
        for step in range(9):
            h = torch.arange(50.0)[:, None] + torch.zeros(50, 4) + step / 100
            sender.encode(h)
        return sender.book.codes_GKD.clone()

    first = after()
    assert first.max() < 60, "no code is left where nothing is"
    assert torch.equal(first, after())


@pytest.mark.parametrize(("boundary", "ratio", "worst"), [
    (Plain(), 1.0, 0.0), (Bf16Outputs(), 2.0, 2.0**-8), (Int8Outputs(), 4.0, 1 / 64),
])  # fmt: skip
def test_rounded_outputs(boundary: BaseBoundary, ratio: float, worst: float) -> None:
    sender, receiver = ends(boundary, (8, 6, 6))
    h = clusters(7, (8, 6, 6))
    arrived = receiver.decode(receiver.accept(sender.encode(h)))
    assert float((arrived - h).norm() / h.norm()) <= worst
    facts = sender.facts()
    assert facts["ratio"] == pytest.approx(ratio, rel=0.02)
    assert facts["error"] == pytest.approx(float((arrived - h).norm() / h.norm()), abs=1e-5)


def test_zeros_survive_int8() -> None:
    sender, receiver = ends(Int8Outputs(), (4,))
    assert torch.equal(receiver.decode(sender.encode(torch.zeros(3, 4))), torch.zeros(3, 4))


def test_the_reported_error_is_that_of_what_arrives() -> None:
    sender, receiver = ends(VectorQuantised(dims=2, codes=16), (8, 4, 4))
    error = size = 0.0
    for step in range(4):
        h = torch.randn(6, 8, 4, 4, generator=Generator().manual_seed(step))
        arrived = receiver.decode(receiver.accept(sender.encode(h)))
        error += float((arrived - h).square().sum())
        size += float(h.square().sum())
    assert sender.facts()["error"] == pytest.approx((error / size) ** 0.5, rel=1e-3)


def test_channels_have_to_be_whole_groups() -> None:
    with pytest.raises(UsageError, match="12 channels are no groups of 8"):
        ends(VectorQuantised(dims=8), (12, 4, 4))
