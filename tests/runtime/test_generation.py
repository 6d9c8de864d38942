"""Which start of the processes it is: agreed on, whoever was gone before, and in whatever order they come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed import HashStore, Store  # type: ignore[attr-defined]

from layerline.errors import PeerLost
from layerline.runtime.generation import agreed_generation, outdated


def starting(store: Store, *starts: tuple[int, int], timeout: float = 20.0) -> Callable[[], list[int | str]]:
    """Start (rank, world) each on a thread; what they have agreed on, or their errors, once they are done."""
    found: list[int | str] = [""] * len(starts)

    def start(number: int, rank: int, world: int) -> None:
        try:
            found[number] = agreed_generation(store, rank, world, timeout)
        except PeerLost as error:
            found[number] = error.what

    threads = [threading.Thread(target=start, args=(number, *each)) for number, each in enumerate(starts)]
    for thread in threads:
        thread.start()

    def ended() -> list[int | str]:
        for thread in threads:
            thread.join(30)
        return found

    return ended


def until_outdated(store: Store, generation: int) -> None:
    until = time.monotonic() + 20
    while not outdated(store, generation):
        assert time.monotonic() < until
        time.sleep(0.005)


def test_every_start_is_the_next_generation() -> None:
    store = HashStore()
    assert starting(store, (0, 2), (1, 2))() == [0, 0]
    assert not outdated(store, 0)
    assert starting(store, (1, 2), (0, 2))() == [1, 1]
    assert outdated(store, 0)
    assert not outdated(store, 1)


def test_one_that_never_came_is_named() -> None:
    assert starting(HashStore(), (0, 3), (2, 3), timeout=0.2)() == ["nothing was heard of rank 1 within 0.2 s"] * 2


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_those_that_were_killed_before_they_agreed(data: st.DataObject) -> None:
    """Any ranks may have come and gone, any number of times; then all start, and agree on one generation nobody has."""
    world, store = data.draw(st.integers(2, 4), label="world"), HashStore()
    used = set()
    for _ in range(data.draw(st.integers(0, 3), label="starts before")):
        came = data.draw(st.sets(st.integers(0, world - 1), min_size=1), label="ranks that came")
        used |= set(starting(store, *((rank, world) for rank in came), timeout=0.12)())
    order = data.draw(st.permutations(range(world)), label="order")
    agreed = starting(store, *((rank, world) for rank in order))()
    assert len(set(agreed)) == 1
    assert not used & set(agreed)
    assert not outdated(store, int(agreed[0]))


def test_one_agent_alone_starts_its_worker_again() -> None:
    """The other's worker is still at its work. It finds out, leaves, and is started again."""
    store = HashStore()
    assert starting(store, (0, 2), (1, 2))() == [0, 0]
    restarted = starting(store, (1, 2))
    until_outdated(store, 0)
    assert starting(store, (0, 2))() == [1]
    assert restarted() == [1]


def test_another_number_of_processes() -> None:
    store = HashStore()
    assert starting(store, (0, 2), (1, 2))() == [0, 0]
    assert starting(store, (2, 3), (1, 3), (0, 3))() == [1, 1, 1]
    assert starting(store, (0, 1))() == [2]


def test_one_whose_place_was_taken_leaves() -> None:
    """Not the other way round, for ever."""
    store = HashStore()
    waiting = starting(store, (0, 2), timeout=5)
    newer = starting(store, (0, 2), timeout=5)
    until_outdated(store, 0)
    last = starting(store, (1, 2), timeout=5)
    ended = waiting() + newer()
    assert last() == [1]
    assert sorted(map(str, ended)) == ["1", "another process has taken the place of this one, rank 0"]
