"""What the nodes of a stream are doing, as their worker leaves it and as rank 0 sees it through the store."""

from __future__ import annotations

import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from layerline.errors import PeerLost
from layerline.events import NodeStanding
from layerline.runtime.members import Board, Membership
from layerline.runtime.standing import looking
from layerline.runtime.stream import doing as module
from layerline.runtime.stream.doing import Doing, posting, standing_of
from layerline.runtime.stream.node import Noted
from layerline.schedules.plan import Action
from layerline.transport.rendezvous import join_store, serve_store


def doing_of(*nodes: int, busy: float = 0.0, done: int = 3) -> Doing:
    """Of nodes that computed for `busy` seconds before."""
    noted: dict[int, Any] = {node: SimpleNamespace(noted=Noted(busy={7: busy})) for node in nodes}
    return Doing(noted, lambda node: done + node)


def test_the_latest_words_of_the_worker_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 50.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    doing = doing_of(0, 1, busy=100.0)
    assert doing.look() == {}, "none has begun"
    doing.waits(1, 0)
    now = 54.0
    assert doing.look() == {1: NodeStanding(4, None, None, 0, 0.0)}, "what it computed before does not count"
    doing.begins(1, Action.BACKWARD, 2)
    now = 58.0
    assert doing.look()[1] == NodeStanding(4, Action.BACKWARD, 2, None, 0.5), "half the time, the row included"
    doing._nodes[1].noted.busy[8] = 4.0
    doing.ends(1)
    now = 66.0
    assert doing.look()[1] == NodeStanding(4, None, None, None, 0.25)


def test_rank_0_sees_the_others() -> None:
    """The last of it, too, after they have trained."""
    store = serve_store()
    boards = [
        Board(Membership(rank, 2, "127.0.0.1", True), 5, join_store("127.0.0.1", store.port, timeout=5), 0)
        for rank in range(2)
    ]
    here, there = doing_of(0), doing_of(1)
    look = looking(here, boards[0], 2, standing_of)
    here.waits(0, 1)
    assert list(look()) == [0]
    with posting(there, partial(boards[1].post, "standing 1")):
        there.begins(1, Action.UPDATE, 4)
        there.waits(1, 0)
    assert look() == {0: look()[0], 1: NodeStanding(4, None, None, 0, 0.0)}


def test_where_the_store_is_gone_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS_BETWEEN", 0.001)
    posted: list[object] = []

    def post(facts: object) -> None:
        posted.append(facts)
        raise PeerLost("gone")

    doing = doing_of(0)
    with posting(doing, post):
        doing.waits(0, 1)
    assert len(posted) == 1, "it is not tried again"
