"""What every transport promises, asked of every one."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from layerline.errors import LayerlineError, MessageRefused, PeerLost
from layerline.transport.codecs import Bf16, Fp32, Int8
from layerline.transport.link import Outgoing
from layerline.transport.message import HEADER_BYTES, Key
from layerline.transport.process_group import ProcessGroup
from layerline.transport.rendezvous import join_store, serve_store
from transport.worlds import WORLDS, World


@pytest.fixture(params=list(WORLDS))
def world(request: pytest.FixtureRequest) -> World:
    return WORLDS[request.param]


def key(row: int, carries: str = "state") -> Key:
    return Key(row, carries, stage=2, chapter=row)


def block(seed: int) -> dict[str, Tensor]:
    """A block as it travels: weights, a bias, moments, a step count."""
    draw = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(6, 5, generator=draw),
        "bias": torch.randn(6, generator=draw),
        "optimizer.first.0": torch.randn(6, 5, generator=draw),
        "optimizer.steps.0": torch.tensor(float(seed)),
    }


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


def test_what_is_sent_arrives_and_may_change_at_once(world: World) -> None:
    with world(Fp32()) as (first, second, _):
        sent = block(1) | {"labels": torch.arange(200), "empty": torch.empty(0, 3), "flag": torch.tensor([True, False])}
        kept = {name: tensor.clone() for name, tensor in sent.items()}
        first.send(key(1), sent, 1)
        for tensor in sent.values():
            tensor.zero_()
        got = second.receive(key(1), 0)
        assert equal(got, kept)
        got["weight"].fill_(7)  # the reader's own


def test_messages_may_be_asked_for_in_any_order_and_from_anybody(world: World) -> None:
    with world(Fp32()) as ends:
        for row in range(20):
            for source in range(3):
                for to in {0, 1, 2} - {source}:
                    ends[source].send(key(row), {"x": torch.tensor([row, source, to])}, to)
        for row in reversed(range(20)):
            for to in range(3):
                for source in {0, 1, 2} - {to}:
                    assert ends[to].receive(key(row), source)["x"].tolist() == [row, source, to]


def test_one_row_may_have_several_results_and_several_readers(world: World) -> None:
    with world(Fp32()) as (first, second, third):
        for carries in ("state", "weights"):
            for to in (1, 2):
                first.send(key(1, carries), {"x": torch.tensor([len(carries), to])}, to)
        for to, end in ((1, second), (2, third)):
            for carries in ("weights", "state"):
                assert end.receive(key(1, carries), 0)["x"].tolist() == [len(carries), to]


def test_a_message_that_does_not_come_is_named_with_block_and_chapter(world: World) -> None:
    with world(Fp32()) as (_, second, _):
        second.transport.timeout = 0.3
        with pytest.raises(PeerLost, match=r"rank 0 .* took more than 0.3 s; node 1 waits") as lost:
            second.receive(key(4), 0)
        second.transport.timeout = 20
        assert "the state of block 3 in chapter 5 (row 4) from node 0" in lost.value.what
        assert (lost.value.node, lost.value.rank) == (0, 0)


@pytest.mark.parametrize("codec", [Fp32(), Bf16(), Int8()], ids=lambda codec: str(codec.kind))
def test_every_reader_gets_what_the_codec_says_and_the_bytes_are_those_on_the_wire(
    world: World, codec: Fp32 | Bf16 | Int8
) -> None:
    plain = Outgoing(0, 1, codec)
    nbytes = 0
    with world(codec) as (first, second, _):
        for row in range(4):
            message, expected = plain.encode(key(row), block(row))
            nbytes += message.nbytes
            assert equal(first.send(key(row), block(row), 1), expected)
        for row in (2, 0, 3, 1):
            again = Outgoing(0, 1, codec)
            for earlier in range(row):
                again.encode(key(earlier), block(earlier))
            assert equal(second.receive(key(row), 0), again.encode(key(row), block(row))[1])
        assert first.bytes_sent == {1: nbytes}
        assert nbytes > 4 * (HEADER_BYTES + 6 * 5 * 4)  # at least the moments, in full


def test_every_transfer_is_in_the_trace_of_both_ends(world: World) -> None:
    with world(Fp32()) as (first, second, third):
        first.send(key(1), block(1), 1)
        first.send(key(2), block(2), 2)
        second.receive(key(1), 0)
        third.receive(key(2), 0)
    assert [(e.key, e.peer, e.direction) for e in first.events if e.peer == 1] == [(key(1), 1, "send")]
    (came,) = second.events
    assert (came.key, came.peer, came.direction) == (key(1), 0, "receive")
    assert came.nbytes == first.bytes_sent[1]
    assert all(0 < event.begin <= event.end for end in (first, second, third) for event in end.events)


def test_closing_flushes_what_is_queued(world: World) -> None:
    with world(Fp32()) as (first, second, _):
        for row in range(8):
            first.send(key(row), {"x": torch.full((500, 500), float(row))}, 1)
    assert [second.receive(key(row), 0)["x"][0, 0].item() for row in range(8)] == list(range(8))


@pytest.mark.parametrize("way", ["resend", "load"])
def test_a_link_that_starts_anew_goes_on_with_the_same_bits(world: World, way: str) -> None:
    undisturbed = Outgoing(0, 1, Int8())
    expected = [undisturbed.encode(key(row), block(row))[1] for row in range(6)]
    with world(Int8()) as (first, second, _):
        kept = [first.send(key(row), block(row), 1) for row in range(3)]
        saved = {name: tensor.clone() for name, tensor in first.tensors().items()}
        assert equal(second.receive(key(2), 0), expected[2])
    with world(Int8()) as (first, second, _):  # new processes; rows 1 and 2 may be wanted again
        if way == "resend":
            first.resend(key(1), kept[1], 1)
            first.resend(key(2), kept[2], 1)
            assert equal(second.receive(key(2), 0), expected[2])
            assert equal(second.receive(key(1), 0), expected[1])
        else:
            first.load(saved)
        for row in range(3, 6):
            first.send(key(row), block(row), 1)
            assert equal(second.receive(key(row), 0), expected[row])


def test_large_payloads_may_go_through_shared_memory(tmp_path: Path) -> None:
    with WORLDS["three ranks"](Fp32(), shared=tmp_path) as (first, second, third):
        for row in range(6):  # one segment, used again and again; then a larger one
            size = 300_000 * (1 + row // 4)
            first.send(key(row), {"x": torch.full((size,), row, dtype=torch.uint8)}, 1)
            first.send(key(row), {"x": torch.full((size,), row + 1, dtype=torch.uint8)}, 2)
        for row in range(6):
            assert second.receive(key(row), 0)["x"].unique().tolist() == [row]
            assert third.receive(key(row), 0)["x"].unique().tolist() == [row + 1]
    assert list(tmp_path.iterdir()) == []


def test_a_type_that_cannot_travel_is_refused_by_name(world: World) -> None:
    with world(Fp32()) as (first, _, _), pytest.raises(LayerlineError, match="cannot send x of the state of block 3"):
        first.send(key(1), {"x": torch.zeros(2, dtype=torch.complex64)}, 1)


def test_who_has_closed_is_named() -> None:
    with WORLDS["three ranks"](Fp32()) as (first, second, _):
        first.transport._pairs[1].end()  # type: ignore[attr-defined]
        with pytest.raises(PeerLost, match=r"rank 0 \(node 0\) has ended its part; node 1 waits for the state"):
            second.receive(key(1), 0)
        with pytest.raises(PeerLost, match=r"rank 0 \(node 0\) has ended its part; node 1 has the state"):
            second.send(key(1), {"x": torch.zeros(1)}, 0)


def test_kinds_that_are_handed_over_wait_nowhere(world: World) -> None:
    """What came before is given first, a mark still where it stood; other kinds and senders are asked for as ever."""
    with world(Fp32()) as (first, second, third):
        came: list[int] = []
        both = threading.Semaphore(0)

        def take(key: Key, tensors: dict[str, Tensor]) -> None:
            came.append(int(tensors["x"]))
            both.release()

        first.send(key(0, "parcel"), {"x": torch.tensor(0)}, 1)
        first.send(key(0, "mark"), {"x": torch.tensor(50)}, 1)
        first.send(key(9, "parcel"), {"x": torch.tensor(9)}, 1)
        first.send(key(0), {"x": torch.tensor(7)}, 1)
        third.send(key(0, "parcel"), {"x": torch.tensor(8)}, 1)
        assert int(second.receive(key(0), 0)["x"]) == 7
        second.hand_over(0, {"parcel": take, "mark": take})
        for row in (1, 1, 2):  # twice is nothing to a taker
            first.send(key(row, "parcel"), {"x": torch.tensor(row)}, 1)
        for _ in range(6):
            assert both.acquire(timeout=20)
        assert came == [0, 50, 9, 1, 1, 2]
        assert int(second.receive(key(0, "parcel"), 2)["x"]) == 8


def test_of_passing_messages_only_the_newest_waits_to_be_sent() -> None:
    """A reader that is held up: the sender goes on, and what is not passing comes all the same."""
    with WORLDS["three ranks"](Fp32()) as (first, second, _):
        came: list[tuple[str, int]] = []
        held, done = threading.Event(), threading.Event()

        def take(key: Key, tensors: dict[str, Tensor]) -> None:
            assert held.wait(20)
            came.append((key.carries, key.row))
            if key.row == 99:
                done.set()

        second.hand_over(0, {"parcel": take, "codes": take})
        for row in range(100):
            codes = row % 30 == 20
            first.send(key(row, "codes" if codes else "parcel"), {"x": torch.ones(9)}, 1, passing=not codes)
        held.set()
        assert done.wait(20)
        assert [row for carries, row in came if carries == "codes"] == [20, 50, 80]
        assert [row for _, row in came] == sorted(row for _, row in came)
        assert len(came) < 10


@pytest.mark.parametrize("where", ["in process", "two ranks"])
def test_a_delay_keeps_order_and_holds_nobody_up(where: str) -> None:
    with WORLDS[where](Fp32(), delay=0.3) as (first, second, _):
        begin = time.monotonic()
        for row in range(20):
            first.send(key(row), {"x": torch.tensor(row)}, 1)
        assert not second.arrived(key(0), 0)
        assert [int(second.receive(key(row), 0)["x"]) for row in range(20)] == list(range(20))
        assert time.monotonic() - begin >= 0.3


@pytest.mark.parametrize("where", ["in process", "two ranks"])
def test_a_mistake_behind_the_delay_is_told(where: str) -> None:
    """It ended the thread that lets messages pass: nothing arrived any more, and whoever waited waited for days."""
    with WORLDS[where](Fp32(), delay=0.01) as (first, second, _):

        def take(key: Key, tensors: dict[str, Tensor]) -> None:
            raise ZeroDivisionError(f"row {key.row}")

        second.hand_over(0, {"parcel": take})
        first.send(key(3, "parcel"), {"x": torch.zeros(1)}, 1)
        with pytest.raises(LayerlineError, match=r"what rank 0 .* sent could not be handled: ZeroDivisionError"):
            second.receive(key(4), 0)


def test_a_process_speaks_for_its_own_nodes() -> None:
    """Whose node a message is of was believed: a number beyond them was an IndexError, −1 the last one."""
    with WORLDS["three ranks"](Fp32()) as (_, second, _):
        for source in (2, -1, 7):
            message, _ = Outgoing(source, 1, Fp32()).encode(key(1), {"x": torch.zeros(1)})
            with pytest.raises(MessageRefused, match=f"is of node {source}, which is not there"):
                second.transport._deliver(0, message, 0.0, MessageRefused)


def test_who_leaves_half_connected_lets_go_of_those_that_came() -> None:
    """They went on hearing that it was alive."""
    store = serve_store()

    def connect(rank: int) -> ProcessGroup:
        own = join_store("127.0.0.1", store.port)
        return ProcessGroup(own, rank, [0, 1, 2], [(0, 1), (0, 2)], plan="ab" * 32, timeout=20.0, join=2.0)

    with ThreadPoolExecutor(2) as pool:
        alone, other = (pool.submit(connect, rank) for rank in range(2))
        with pytest.raises(PeerLost, match=r"rank 2 \(node 2\) did not connect within 2 s"):
            alone.result()
        with other.result() as transport, pytest.raises(PeerLost, match=r"rank 0 \(node 0\) has ended its part"):
            transport.at(1).receive(key(1), 0)
