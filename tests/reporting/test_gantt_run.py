"""`gantt.svg`: what was measured above what was planned."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from layerline.api import train
from layerline.errors import LayerlineError
from layerline.events import Event, Noted
from layerline.reporting import gantt_run
from layerline.reporting.gantt_run import MISSING, draw_run, measured, planned
from layerline.schedules.all_layers import AllLayers
from layerline.schedules.costs import World, even
from layerline.schedules.plan import Plan
from layerline.schedules.simulate import Simulation, simulate
from layerline.schedules.work import Work
from reporting.tiny import tiny_data, tiny_run

SETTINGS: dict[str, Any] = {"order": "chapters", "epochs": 4, "schedule": {"kind": "all-layers"}, "nodes": 2}


def carried_out(plan: Plan, found: Simulation, since: float = 1.7e9) -> dict[int, list[dict[str, Any]]]:
    """As if every row had taken a tenth longer than planned."""
    facts: dict[int, list[dict[str, Any]]] = {node: [] for node in range(plan.nodes)}
    for row in range(len(plan)):
        begin, end = since + 1.1 * found.start[row], since + 1.1 * found.end[row]
        told = {"row": row, "sitting": 0, "durable": True, "begin": begin, "end": end, "handed": end + 0.001}
        facts[int(plan.node[row])].append(told | {"bytes": 0, "transfers": [], "metrics": []})
    return facts


def made(blocks: int, chapters: int, nodes: int) -> tuple[Plan, Simulation]:
    work = Work(blocks=blocks, chapters=chapters, nodes=nodes)
    plan = AllLayers().plan(work)
    return plan, simulate(plan, even(work), World())


def words(path: Path) -> str:
    """The texts of a picture: matplotlib leaves them as comments beside the outlines."""
    ElementTree.parse(path)
    return path.read_text(encoding="utf-8")


def test_a_real_run_leaves_a_picture(tmp_path: Path) -> None:
    train(tiny_run(**SETTINGS), data=tiny_data(), out_dir=tmp_path / "run")
    shown = words(tmp_path / "run" / "gantt.svg")
    for said in ("tiny · all-layers", "<!-- measured ", "<!-- planned ", "<!-- node 2 ", "handing over"):
        assert said in shown


def test_both_timelines_hold_every_row(tmp_path: Path) -> None:
    plan, found = made(2, 4, 2)
    above, below = measured(plan, carried_out(plan, found)), planned(plan, found)
    assert not np.isnan(above.rows).any()
    assert above.rows[:, 0].min() == 0
    assert above.end == pytest.approx(1.1 * below.end)
    assert below.end == found.makespan
    assert above.utilisation == pytest.approx(found.utilisation)
    draw_run(plan, carried_out(plan, found), found, tmp_path / "short.svg", "short")
    shown = words(tmp_path / "short.svg")
    assert shown.count("<!-- 2.4 -->") == 2, "a bar's name, above and below"
    assert "beginning" not in shown


def test_of_a_long_run_the_beginning_and_the_end(tmp_path: Path) -> None:
    plan, found = made(8, 200, 4)
    draw_run(plan, carried_out(plan, found), found, tmp_path / "long.svg", "long")
    shown = words(tmp_path / "long.svg")
    assert "long: its beginning and its end" in shown
    assert "<!-- 1.1 -->" in shown
    assert "<!-- 8.200 -->" in shown
    assert "<!-- 1.100 -->" not in shown
    assert (tmp_path / "long.svg").stat().st_size < 2e6


def test_rows_that_nobody_noted_are_left_out(tmp_path: Path) -> None:
    plan, found = made(2, 4, 2)
    facts = carried_out(plan, found)
    facts[1] = []
    draw_run(plan, facts, found, tmp_path / "part.svg", "part")
    draw_run(plan, {0: [], 1: []}, found, tmp_path / "none.svg", "none")
    assert np.isnan(measured(plan, facts).rows[plan.node == 1]).all()


def test_many_nodes_are_cut(tmp_path: Path) -> None:
    plan, found = made(30, 30, 30)
    draw_run(plan, carried_out(plan, found), found, tmp_path / "wide.png", "wide")
    assert (tmp_path / "wide.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    plan, found = made(1, 1, 1)
    with pytest.raises(LayerlineError, match="cannot write"):
        draw_run(plan, carried_out(plan, found), found, tmp_path / "file" / "gantt.svg", "none")


def test_without_matplotlib_one_sentence_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not gantt_run.can_draw()
    heard: list[Event] = []
    train(tiny_run(**SETTINGS), data=tiny_data(), out_dir=tmp_path / "run", listener=heard.append)
    assert [each for each in heard if isinstance(each, Noted)] == [Noted(MISSING)]
    assert not (tmp_path / "run" / "gantt.svg").exists()
    assert (tmp_path / "run" / "result.json").exists()
