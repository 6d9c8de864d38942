"""The display of a stream over nodes: what each line says, and real runs, also in a pseudo-terminal."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerline import api
from layerline.events import EpochDone, Evaluated, Event, Minibatch, NodeStanding, Row, Started, StreamStarts
from layerline.reporting.stream_nodes import StreamDisplay, StreamView, ranges
from layerline.schedules.plan import Action
from reporting.displays import console, gives_the_terminal_back, in_a_pseudo_terminal, shows_nothing_when_quiet
from runtime.stream.test_stream_nodes import run_of

STARTED = Started("dgl", "runs/dgl/x", 0, 40, 4, [])
BLOCKS = [(0, 1), (2,)]


def at(done: int, action: Action | None = None, block: int | None = None, waits: int | None = None) -> NodeStanding:
    return NodeStanding(done, action, block, waits, 0.5)


def starts(*looks: dict[int, NodeStanding], freely: bool = False, in_turns: bool = False) -> StreamStarts:
    """Two nodes that stand so, look after look; the last one stays."""
    left = list(looks)
    steps = [40 * len(blocks) if freely else 40 for blocks in BLOCKS]
    return StreamStarts(BLOCKS, steps, freely, in_turns, lambda: left.pop(0) if len(left) > 1 else left[0])


def lines(start: StreamStarts) -> list[str]:
    """The table after one look."""
    view, (where, text) = StreamView(start), console(terminal=False)
    view.update()
    where.print(view.table())
    return [" ".join(line.split()) for line in text.getvalue().splitlines()]


def test_a_line_a_node() -> None:
    header, first, second = lines(starts({0: at(6, Action.FORWARD, 1), 1: at(4, waits=0)}))
    assert header == "node blocks minibatch busy"
    assert first == "1 1–2 7/40 50% forward, block 2"
    assert second == "2 3 5/40 50% waits for node 1"


def test_where_blocks_run_freely_the_minibatches_of_each_are_counted() -> None:
    header, first, second = lines(starts({0: at(61, Action.TRAIN, 1), 1: at(40)}, freely=True))
    assert header == "node blocks minibatches busy"
    assert first == "1 1–2 61/80 50% learns, block 2"
    assert second == "2 3 40/40 50% has done its part"


@pytest.mark.parametrize(
    ("standing", "in_turns", "words"),
    [
        (at(3), True, "waits for its turn"),
        (at(3), False, "sends or waits"),
        (at(3, Action.WEIGHT_GRADIENT), False, "weight gradient"),
        (at(40, Action.FORWARD, 0), False, "forward, block 1"),
        (at(40, waits=1), False, "waits for node 2"),
        (at(40), False, "has done its part"),
    ],
)
def test_other_things_a_node_may_be_about(standing: NodeStanding, in_turns: bool, words: str) -> None:
    _, first, second = lines(starts({0: standing}, in_turns=in_turns))
    assert first.endswith(f"50% {words}")
    assert second == "2 3 starts"


def test_many_nodes_are_cut_short() -> None:
    view = StreamView(StreamStarts([(n,) for n in range(30)], [4] * 30, False, False, dict))
    where, text = console(terminal=False)
    where.print(view.table())
    assert "and 6 more nodes" in text.getvalue()


@given(st.sets(st.integers(0, 12), min_size=1))
def test_ranges_name_every_block_once(blocks: set[int]) -> None:
    named: list[int] = []
    for part in ranges(sorted(blocks)).split(", "):
        begin, _, end = part.partition("–")
        named += range(int(begin) - 1, int(end or begin))
    assert named == sorted(blocks)


def test_time_left_is_that_of_the_node_that_needs_most(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    view = StreamView(starts({0: at(10), 1: at(10)}, {0: at(30), 1: at(20)}, {0: at(40), 1: at(40)}))
    view.update()
    assert view.left() == "-:-- left"
    now = 120.0
    view.update()
    assert view.left() == "0:40 left", "20 steps at 2 s each, and not 10 at 1 s"
    assert view.steps == 20
    assert not view.finished
    view.update()
    assert view.left() == "done"
    assert view.finished


def test_on_a_terminal_nodes_stand_below_the_epoch() -> None:
    where, text = console(terminal=True)
    with StreamDisplay(console=where) as display:
        display(STARTED)
        display(starts({0: at(6, Action.UPDATE, 0), 1: at(4, waits=0)}, {0: at(40), 1: at(40)}))
        display(Minibatch(1, "all blocks"))
        display(EpochDone(1, [Row(1, "3", 0.5, 0.981)]))
        assert display._thread
        display._thread.join(20)
        display(Evaluated(1, "test", 0.9783, 4.2))
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.getvalue().split("epoch 1/4")[-1]).splitlines()
    assert [" ".join(line.split()) for line in last[1:4]] == [
        "node blocks minibatch busy",
        "1 1–2 40/40 50% has done its part",
        "2 3 40/40 50% has done its part",
    ]
    assert last[0].rstrip().endswith("done")
    assert last[4].startswith("test accuracy 97.83 %")
    assert "update, block 1" in text.getvalue()
    assert text.getvalue().endswith("\x1b[?25h"), "the cursor is shown again"


def test_elsewhere_nothing_changes() -> None:
    where, text = console(terminal=False)
    with StreamDisplay(console=where) as display:
        display(STARTED)
        display(starts({0: at(6), 1: at(4)}))
        display(EpochDone(1, [Row(1, "3", 0.5, 0.981)]))
        assert display._thread is None
    assert len(text.getvalue().splitlines()) == 2
    assert text.getvalue().splitlines()[1].startswith("epoch 1/4 | block 3: loss 0.5, accuracy 98.10 % | ")


def test_quiet_shows_nothing() -> None:
    shows_nothing_when_quiet(StreamDisplay, STARTED, starts({0: at(6)}), EpochDone(1, [Row(1, "3", 0.5, 0.981)]))


def test_an_error_gives_the_terminal_back() -> None:
    gives_the_terminal_back(StreamDisplay, STARTED, starts({0: at(6), 1: at(4)}))


@pytest.mark.parametrize("free", [False, True])
def test_what_a_real_stream_tells(free: bool) -> None:
    """In one process: how far, and how busy, is known at every step."""
    run = run_of(nodes=2, **({"timing": {"kind": "async"}} if free else {}))
    heard: list[StreamStarts] = []
    seen: list[dict[int, NodeStanding]] = []

    def hear(event: Event) -> None:
        if isinstance(event, StreamStarts):
            heard.append(event)
            assert event.look() == {}, "nobody has begun"
        elif isinstance(event, Minibatch | EpochDone):
            seen.append(dict(heard[0].look()))

    api.train(run, listener=hear)
    (start,) = heard
    assert start.in_turns
    assert start.freely == free
    assert [block for blocks in start.blocks for block in blocks] == [0, 1, 2]
    assert [*start.steps] == [16 * len(blocks) if free else 16 for blocks in start.blocks]
    done = [[look[node].done for look in seen if node in look] for node in (0, 1)]
    assert all(counts == sorted(counts) for counts in done)
    assert [look.done for look in start.look().values()] == [*start.steps]
    assert all(0 < look.share <= 1 for look in start.look().values())
    assert sum(look.share for look in start.look().values()) <= 1.01, "they take turns"
    if not free:
        assert done == [[*range(1, 17)]] * 2


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_two_processes_in_a_pseudo_terminal(tmp_path: Path) -> None:
    """Rank 0 draws both nodes, with what the other process lets it know."""
    file, folder = tmp_path / "run.toml", tmp_path / "run"
    file.write_text(run_of(nodes=2, epochs=8).to_toml(), encoding="utf-8")
    text = in_a_pseudo_terminal(["train", str(file), "--out-dir", str(folder)], columns=90)
    assert re.search(r"^1 +1(–2)? +\d+/64 +\d+%", text, re.MULTILINE), text
    assert re.search(r"^2 +(2–)?3 +\d+/64 +\d+%", text, re.MULTILINE), text
    assert "2 nodes in 2 processes" in text
