"""What nodes are about, as rank 0 sees it through the store."""

from __future__ import annotations

from pathlib import Path

from layerline.errors import PeerLost
from layerline.events import Event, RowBegins, RowDone, RowWaits, Standing
from layerline.runtime.members import Board, Membership
from layerline.runtime.pipeline import Pipeline
from layerline.runtime.planning import planned
from layerline.runtime.standing import Standings, looking, standing_of
from layerline.runtime.stop import Stop
from layerline.transport.rendezvous import join_store, serve_store
from small_runs import EpochDone, small_data, small_run

RUN = small_run(order="chapters", epochs=4, chapters=2, schedule={"kind": "all-layers"}, nodes=2)
PLAN = planned(RUN, 3)


def test_it_follows_every_row(tmp_path: Path) -> None:
    pipeline = Pipeline(RUN, PLAN, small_data(), tmp_path)
    standings = Standings(pipeline)
    seen: list[tuple[type[Event], int, Standing]] = []

    def hear(event: Event) -> None:
        standings.hear(event)
        if isinstance(event, RowWaits | RowBegins | RowDone):
            seen.append((type(event), event.row, standings.look()[event.node]))

    before = standings.look()
    pipeline.work(hear, Stop(), pipeline.here())
    assert [before[node].row for node in (0, 1)] == [PLAN.rows_of({node})[0] for node in (0, 1)]
    for kind, row, standing in seen:
        if kind is RowDone:
            following = [later for later in PLAN.rows_of({int(PLAN.node[row])}) if later > row]
            assert standing.row == min(following, default=len(PLAN))
        else:
            assert (standing.row, standing.waits) == (row, kind is RowWaits)
    after = standings.look()
    assert all(standing.row == len(PLAN) and standing.busy > 0 for standing in after.values())
    latest = after[1].latest
    assert latest is not None
    assert (latest.epoch, latest.block) == (4, "3")
    again = Standings(Pipeline(RUN, PLAN, small_data(), tmp_path)).look()
    assert all(standing.row == len(PLAN) for standing in again.values()), "a finished run has nothing to do"


def test_how_far_a_row_is(tmp_path: Path) -> None:
    pipeline = Pipeline(RUN, PLAN, small_data(), tmp_path)
    standings, shares = Standings(pipeline), []

    def hear(event: Event) -> None:
        standings._due = 0.0  # half a second is over
        standings.hear(event)
        if isinstance(event, EpochDone):
            shares.append(standings.look()[standings._row.node].share)

    pipeline.work(hear, Stop(), pipeline.here())
    assert shares[:4] == [0.5, 1.0, 0.5, 1.0], "two epochs a chapter"


def test_rank_0_sees_the_others(tmp_path: Path) -> None:
    """What was known last where the store is gone."""
    store = serve_store()
    data, posted = small_data(), []
    boards = [
        Board(Membership(rank, 2, "127.0.0.1", True), 5, join_store("127.0.0.1", store.port, timeout=5), 0)
        for rank in range(2)
    ]

    def post(facts: object) -> None:
        posted.append(facts)
        boards[1].post("standing 1", facts)

    here = Standings(Pipeline(RUN, PLAN, data, tmp_path / "0", nodes=[0]))
    look = looking(here, boards[0], 2, standing_of)
    assert list(look()) == [0]
    there = Standings(Pipeline(RUN, PLAN, data, tmp_path / "1", nodes=[1]), post)
    row = PLAN.rows_of({1})[0]
    there.hear(RowBegins(row, 1))
    assert look()[1] == Standing(row, False, 0.0, 0.0, None) == there.look()[1]
    assert len(posted) == 2

    class Gone(Board):
        def look(self, name: str) -> object:
            raise PeerLost(name)

    gone = looking(here, Gone(Membership(0, 2, "127.0.0.1", True), 5, store, 0), 2, standing_of)
    assert list(gone()) == [0]
