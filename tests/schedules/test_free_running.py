"""Who takes which minibatch: the replay rule against one written out by hand, and free runs as they are drawn."""

from __future__ import annotations

from itertools import repeat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerline.errors import UsageError
from layerline.schedules.free_running import Events, run_freely
from layerline.schedules.order import Order, Uses
from layerline.schedules.replay import Ring
from layerline.schedules.timing import Async


class ByHand:
    """The rule, as a list of (step, number of the next use) that is searched from the newest to the oldest."""

    def __init__(self, size: int, limit: int | None) -> None:
        self.size, self.limit = size, limit
        self.held: list[list[int]] = []

    def insert(self, step: int) -> None:
        self.held = [[step, 1], *self.held][: self.size]

    def take(self) -> int | None:
        fewest = min((uses for _, uses in self.held), default=0)
        for entry in self.held:
            if entry[1] == fewest and (self.limit is None or fewest <= self.limit):
                entry[1] += 1
                return entry[0]
        return None


@given(
    size=st.integers(1, 5),
    limit=st.none() | st.integers(1, 3),
    writes=st.lists(st.booleans(), max_size=60),
)
def test_the_rule(size: int, limit: int | None, writes: list[bool]) -> None:
    ring, model, step = Ring(size, limit), ByHand(size, limit), 0
    for write in writes:
        if write:
            gone = ring.insert(step)
            assert gone == (step - size if step >= size else None)
            model.insert(step)
            step += 1
        else:
            assert ring.take() == model.take()
        assert [[p.step, p.uses] for p in reversed(ring.places)] == model.held


def test_the_rule_as_in_its_docstring() -> None:
    ring = Ring(3)
    ring.insert(0)
    taken = [ring.take()]
    ring.insert(1)
    ring.insert(2)
    taken += [ring.take() for _ in range(4)]
    ring.insert(3)
    assert taken == [0, 2, 1, 2, 1]
    assert ring.take() == 3


def test_past_max_reuse_the_reader_idles() -> None:
    ring = Ring(2, max_reuse=2)
    for step in (0, 1):
        ring.insert(step)
    assert [ring.take() for _ in range(5)] == [1, 0, 1, 0, None]
    ring.insert(2)
    assert ring.take() == 2


def sources(events: Events, blocks: int) -> list[list[int]]:
    """What each block took."""
    return [[source for block, source in events if block == each] for each in range(blocks)]


def test_a_slow_reader_skips_and_a_slow_writer_is_read_again() -> None:
    slow_reader = run_freely([repeat(1.0), repeat(1.5)], 5, 1)
    assert slow_reader[:6] == [(0, 0), (1, 0), (0, 1), (0, 2), (1, 1), (0, 3)]
    assert sources(slow_reader, 2) == [[0, 1, 2, 3, 4], [0, 1, 3, 4]]
    slow_writer = run_freely([repeat(2.0), repeat(1.0)], 4, 1)
    assert sources(slow_writer, 2) == [[0, 1, 2, 3], [0, 0, 1, 1, 2, 2, 3]], "the last minibatch is the end"
    in_turn = run_freely([repeat(2.0), repeat(1.0)], 4, 1, max_reuse=1)
    assert sources(in_turn, 2) == [[0, 1, 2, 3], [0, 1, 2, 3]]


@given(blocks=st.integers(1, 5), steps=st.integers(1, 9), buffer=st.integers(1, 4), reuse=st.none() | st.integers(1, 3))
def test_equal_speeds_take_every_minibatch_once(blocks: int, steps: int, buffer: int, reuse: int | None) -> None:
    order = Order.of(run_freely([repeat(1.0)] * blocks, steps, buffer, reuse), blocks, steps)
    assert sources(order.events.tolist(), blocks) == [list(range(steps))] * blocks


SLOWDOWNS = st.lists(st.sampled_from([0.5, 1.0, 1.2, 2.0, 4.0]), min_size=1, max_size=4)


@given(
    slowdowns=SLOWDOWNS,
    pace=st.sampled_from(["regular", "random"]),
    steps=st.integers(1, 12),
    buffer=st.integers(1, 4),
    reuse=st.none() | st.integers(1, 2),
)
def test_every_free_run_could_have_happened(
    slowdowns: list[float], pace: str, steps: int, buffer: int, reuse: int | None
) -> None:
    timing = Async.model_validate({"slowdowns": slowdowns, "pace": pace, "buffer": buffer, "max_reuse": reuse})
    order = timing.order(len(slowdowns), steps, seed=3)
    order.check("it")
    assert order.events.tolist() == timing.order(len(slowdowns), steps, seed=3).events.tolist()
    taken = sources(order.events.tolist(), len(slowdowns))
    assert taken[0] == list(range(steps)), "the first block takes every minibatch of the data once"
    for block in range(len(slowdowns)):
        origins = order.origins[order.events[:, 0] == block].tolist()
        assert origins.index(steps - 1) + 1 == len(origins), "all end with the last minibatch of the data"
    for block in range(1, len(slowdowns)):
        if reuse:
            assert max(taken[block].count(source) for source in taken[block]) <= reuse
    uses = Uses.of(order)
    waiting: set[tuple[int, int]] = set()
    for at, ((block, source), number) in enumerate(zip(order.events.tolist(), order.number.tolist(), strict=True)):
        if block:
            assert (block - 1, source) in waiting
            if uses.last[at]:
                waiting.remove((block - 1, source))
        if uses.wanted[at]:
            waiting.add((block, number))
        assert all(sum(block == each for block, _ in waiting) <= buffer + 1 for each in range(len(slowdowns)))
    assert not waiting


@given(
    slowdowns=st.lists(st.sampled_from([1.0, 1.2, 1.5, 2.0, 2.7, 5.3]), min_size=2, max_size=5), more=st.integers(2, 6)
)
def test_at_steady_speeds_a_larger_buffer_changes_nothing(slowdowns: list[float], more: int) -> None:
    """Every minibatch is used about equally often, so the latest is among the least used."""
    small, large = (
        Async(slowdowns=tuple(slowdowns), buffer=buffer).order(len(slowdowns), 20, seed=0) for buffer in (1, more)
    )
    assert small.events.tolist() == large.events.tolist()
    drawn = [Async(pace="random", buffer=buffer).order(3, 20, seed=0).events.tolist() for buffer in (1, 5)]
    assert drawn[0] != drawn[1], "where speeds vary it does"


def test_a_random_pace_follows_the_slowdowns() -> None:
    order = Async(slowdowns=(1.0, 3.0), pace="random").order(2, 400, seed=0)
    assert 2.5 < 400 / (order.events[:, 0] == 1).sum() < 3.5


def test_a_step_goes_back_to_a_minibatch_of_the_data() -> None:
    order = Order.of([(0, 0), (0, 1), (1, 1), (2, 0), (0, 2), (1, 2), (2, 0), (2, 1)], 3, 3)
    assert order.origins.tolist() == [0, 1, 1, 1, 2, 2, 1, 2]


def test_an_order_comes_back_from_its_file(tmp_path: Path) -> None:
    order = Async(slowdowns=(1.0, 2.0)).order(2, 5, seed=0)
    order.write(tmp_path / "order.npy")
    assert Order.read(tmp_path / "order.npy", 2, 5).events.tolist() == order.events.tolist()


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ([(0, 0), (2, 0)], "no block 3"),
        ([(0, 0), (1, 1)], "not made yet"),
        ([(1, 0), (0, 0)], "not made yet"),
        ([(0, 0), (1, -1)], "not made yet"),
        ([(0, 0), (0, 0)], "first block reads"),
        ([(0, 0), (1, 0), (0, 1)], "block 2 comes to minibatch 1 of the data, this run has 2"),
        ([(0, 0), (0, 1), (1, 1), (1, 0)], "block 2 goes on after the last minibatch"),
        ([(0, 0), (0, 1), (1, 1), (0, 2)], "block 1 comes to minibatch 3 of the data, this run has 2"),
    ],
)
def test_what_no_blocks_can_do_is_refused(events: Events, why: str, tmp_path: Path) -> None:
    path = tmp_path / "order.npy"
    np.save(path, np.array(events, dtype=np.int32))
    with pytest.raises(UsageError, match=why):
        Order.read(path, 2, 2)


@pytest.mark.parametrize("content", [b"", b"no array", np.zeros(4).tobytes()])
def test_what_is_no_order_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "order.npy").write_bytes(content)
    with pytest.raises(UsageError, match="no order of events"):
        Order.read(tmp_path / "order.npy", 2, 2)


def test_an_order_with_objects_is_not_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "order.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match="no order of events"):
        Order.read(tmp_path / "order.npy", 2, 2)


def test_slowdowns_are_one_for_each_block() -> None:
    with pytest.raises(UsageError, match=r"2 number\(s\), the network 3 block"):
        Async(slowdowns=(1.0, 2.0)).order(3, 5, seed=0)
