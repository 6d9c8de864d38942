"""The display of a run over nodes: what each line says, and real runs, also in a pseudo-terminal."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from layerline.api import train
from layerline.events import Noted, PlanStarts, Row, Standing, Started
from layerline.reporting.nodes import NodesDisplay, View
from layerline.run import Run
from layerline.schedules.all_layers import AllLayers
from layerline.schedules.costs import World, even
from layerline.schedules.plan import Action
from layerline.schedules.simulate import simulate
from layerline.schedules.work import Work
from reporting.displays import console, gives_the_terminal_back, in_a_pseudo_terminal, shows_nothing_when_quiet
from reporting.tiny import tiny_data, tiny_run

WORK = Work(blocks=2, chapters=4, nodes=2)
PLAN = AllLayers().plan(WORK)
ROWS = len(PLAN)
FOUND = simulate(PLAN, even(WORK), World())
STARTED = Started("digits", "runs/digits/x", 0, 40, 8, [])
LATEST = Row(3, "2", 0.123456, 0.981)


def row(action: Action, stage: int, chapter: int) -> int:
    which = (PLAN.action == action) & (PLAN.stage == stage) & (PLAN.chapter == chapter)
    return int(np.flatnonzero(which)[0])


def starts(*looks: dict[int, Standing]) -> PlanStarts:
    """A run that stands so, look after look; the last one stays."""
    left = list(looks)
    return PlanStarts(PLAN, FOUND, lambda: left.pop(0) if len(left) > 1 else left[0])


def lines(*looks: dict[int, Standing]) -> list[str]:
    """The picture after these looks."""
    view, (where, text) = View(starts(*looks)), console(terminal=False)
    for look in looks:
        view.update(look)
    where.print(view.picture())
    return [" ".join(line.split()) for line in text.getvalue().splitlines()]


def begun(node: int) -> Standing:
    return Standing(int(np.flatnonzero(PLAN.node == node)[0]), True, 0.0, 0.0, None)


def test_a_line_a_node() -> None:
    working = Standing(row(Action.TRAIN, 1, 0), False, 0.5, 1.0, LATEST)
    waiting = Standing(row(Action.TRAIN, 1, 1), True, 0.0, 0.5, None)
    whole, header, first, second = lines({0: begun(0), 1: begun(1)}, {0: working, 1: waiting})
    assert whole.startswith("chapter 1/4 ")
    assert f"/{ROWS} rows" in whole
    assert header == "node busy latest"
    assert first.startswith("1 trains block 2, chapter 1, 50% ")
    assert first.endswith("% block 2: 98.10 %")
    assert second.startswith("2 waits for block 2, chapter 1, from node 1 ")


def test_other_things_a_node_may_be_about() -> None:
    forwarding = Standing(row(Action.FORWARD, 0, 0), False, 0.0, 1.0, None)
    *_, first, second = lines({0: forwarding})
    assert first.startswith("1 forwards through block 1, chapter 1")
    assert second.startswith("2 starts")
    received = Standing(row(Action.TRAIN, 0, 1), True, 0.0, 0.0, None)
    *_, first, second = lines({0: Standing(ROWS, True, 0.0, 1.0, None), 1: received})
    assert first.startswith("1 has done its part")
    assert second.startswith("2 receives block 1, chapter 1")


def test_nodes_of_one_process_take_turns() -> None:
    together = simulate(AllLayers().plan(Work(blocks=2, chapters=4)), even(WORK), World())
    view = View(PlanStarts(PLAN, together, dict))
    view.update({0: Standing(row(Action.FORWARD, 0, 0), False, 0.0, 1.0, None), 1: begun(1)})
    assert view._doing(1) == "waits for its turn"


def test_many_nodes_are_cut_short() -> None:
    work = Work(blocks=30, chapters=30, nodes=30)
    plan = AllLayers().plan(work)
    view, (where, text) = (
        View(PlanStarts(plan, simulate(plan, even(work), World()), dict)),
        console(terminal=False),
    )
    view.update({})
    where.print(view.picture())
    assert "and 6 more" in text.getvalue()


def test_time_left_follows_the_node_that_is_furthest_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    view = View(starts({}))
    view.update({0: begun(0), 1: begun(1)})
    assert view._left() == "-:-- left"
    now = 60.0
    half = Standing(row(Action.TRAIN, 1, 1), False, 0.0, 50.0, None)
    view.update({0: Standing(row(Action.TRAIN, 0, 2), False, 0.0, 60.0, None), 1: half})
    at = min(FOUND.start[half.row], FOUND.start[row(Action.TRAIN, 0, 2)])
    expected = (FOUND.makespan - at) * 60 / at
    minutes, seconds = map(int, view._left().removesuffix(" left").split(":"))
    assert minutes * 60 + seconds == pytest.approx(expected, abs=0.51)
    assert view._busy(1) == "83%"


def test_elsewhere_a_line_a_chapter() -> None:
    where, text = console(terminal=False)
    middle = Standing(row(Action.TRAIN, 0, 2), False, 0.0, 1.0, LATEST)
    end = Standing(ROWS, True, 0.0, 2.0, LATEST)
    looks = [{0: begun(0), 1: begun(1)}, {0: middle, 1: begun(1)}, {0: middle, 1: begun(1)}, {0: end, 1: end}]
    with NodesDisplay(console=where) as display:
        display(STARTED)
        display(starts(*looks))
        assert display._thread
        display._thread.join(20)
        display(Noted("there is more to say"))
    shown = text.getvalue().splitlines()
    assert shown[0] == "digits · runs/digits/x"
    assert shown[1].startswith("chapter 1/4 | block 2: loss 0.1235, accuracy 98.10 % | nodes busy ")
    assert shown[2].startswith("chapter 4/4 | ")
    assert shown[2].endswith(" | done")
    assert shown[3:] == ["there is more to say"]
    assert "\x1b" not in text.getvalue()


def test_quiet_shows_nothing() -> None:
    shows_nothing_when_quiet(NodesDisplay, STARTED, starts({}), Noted("!"))


def test_an_error_gives_the_terminal_back() -> None:
    gives_the_terminal_back(NodesDisplay, STARTED, starts({0: begun(0), 1: begun(1)}))


@pytest.mark.parametrize("schedule", ["all-layers", "single-layer"])
def test_a_real_training_in_one_process(schedule: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run: Run = tiny_run(order="chapters", epochs=4, schedule={"kind": schedule}, nodes=2)
    with NodesDisplay() as display:
        train(run, data=tiny_data(), out_dir=tmp_path / "run", listener=display)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.search(r"chapter 4/4 \| block 2: loss .*, accuracy .* % \| nodes busy .* \| done", shown.err)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_two_processes_in_a_pseudo_terminal(tmp_path: Path) -> None:
    """Rank 0 draws both nodes, with what the other process lets it know."""
    words = "train digits --order chapters --schedule all-layers --nodes 2 --epochs 12 --threads 1"
    text = in_a_pseudo_terminal([*words.split(), "--out-dir", str(tmp_path / "run")], columns=80)
    for node in (1, 2):
        assert re.search(rf"^{node} +(trains|forwards through|receives|waits for) .*%", text, re.MULTILINE), text
    assert "2 nodes in 2 processes" in text
