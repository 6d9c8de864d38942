"""The bytes between two processes: whatever their sizes they arrive as they went, and nobody has to ask for them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributed import HashStore  # type: ignore[attr-defined]

from layerline.transport import channel
from layerline.transport.channel import POSTED, Channel

PIECE = 64
SIZES = st.one_of(st.integers(0, 3), st.integers(PIECE - 9, PIECE + 9), st.integers(0, 12 * PIECE))
Ends = tuple[Channel, Channel]


def connected(threads: ThreadPoolExecutor, silence: float) -> Ends:
    store = HashStore()
    made = [
        threads.submit(Channel, store, "pair", side, host="127.0.0.1", timeout=20.0, silence=silence) for side in (0, 1)
    ]
    return made[0].result(), made[1].result()


@pytest.fixture(scope="module")
def ends() -> Iterator[Ends]:
    """Both ends, with small pieces."""
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor() as threads:
        patch.setattr(channel, "PIECE", PIECE)
        yield connected(threads, silence=20.0)


def filled(size: int, start: int) -> Tensor:
    return (torch.arange(size) + start).to(torch.uint8)


@given(st.lists(st.tuples(st.integers(1, PIECE), st.lists(SIZES, min_size=1, max_size=3)), max_size=6))
@settings(max_examples=50, deadline=None)
def test_what_is_sent_together_arrives_as_it_went(ends: Ends, sent: list[tuple[int, list[int]]]) -> None:
    """Parts of all sizes: empty, that just fit into a piece or just not, of several pieces."""
    writer, reader = ends
    messages = [[filled(size, 7 * at) for at, size in enumerate((first, *rest))] for first, rest in sent]
    with ThreadPoolExecutor(max_workers=1) as threads:  # one after the other
        sending = [threads.submit(writer.send, *parts) for parts in messages]
        for first, *rest in messages:
            assert torch.equal(reader.receive(len(first)), first)
            came = reader.rest(*map(len, rest))
            assert all(torch.equal(*pair) for pair in zip(came, rest, strict=True))
        for each in sending:
            each.result()


def test_pieces_leave_before_anybody_asks_for_them(ends: Ends) -> None:
    """They waited for the reader: a message of three tensors took 128 ms on a link with a delay of 20."""
    reader, writer = ends
    for number in range(POSTED - 1):
        writer.send(filled(5, number))
    assert [reader.receive(5)[0].item() for _ in range(POSTED - 1)] == list(range(POSTED - 1))


def test_a_writer_that_waits_for_its_reader(ends: Ends) -> None:
    writer, reader = ends
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(writer.wait_for_reader)
        writer.send(filled(3, 0))
        assert reader.receive(3)[2] == 2
        assert not waiting.done()
        reader.let_writer_go()
        waiting.result(timeout=20)


def test_nothing_comes() -> None:
    with ThreadPoolExecutor() as threads:
        reader, _writer = connected(threads, silence=0.2)
        with pytest.raises(TimeoutError):
            reader.receive(3)
