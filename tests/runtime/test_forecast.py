"""What a run should take: measured before it, or by its first chapter; on processes, not on nodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layerline.api import resume, train
from layerline.cli.main import main
from layerline.errors import Stopped
from layerline.events import Event, PlanStarts, RowDone
from layerline.runtime import forecast
from layerline.runtime.forecast import Forecast, first_chapter, on_processes, read_costs
from layerline.runtime.planning import planned
from layerline.runtime.slots import Slots
from layerline.runtime.stop import Stop
from layerline.schedules.costs import ONE_HOST, Costs, World, even
from layerline.schedules.plan import Action
from layerline.schedules.simulate import row_seconds, simulate
from layerline.schedules.work import Work
from small_runs import small_data, small_run

DATA = small_data()
SETTINGS: dict[str, Any] = {"order": "chapters", "epochs": 4, "schedule": {"kind": "all-layers"}, "nodes": 2}
RUN = small_run(**SETTINGS, negatives={"kind": "adaptive"})
PLAN = planned(RUN, 3)
WORK = Work(blocks=3, chapters=4, nodes=2, judged=True)


def of(folder: Path, places: list[int], **changes: Any) -> Forecast:
    return Forecast(RUN.replace(**changes), PLAN, places, DATA, Slots(folder, {}))


def test_nodes_of_one_process_take_turns() -> None:
    costs = even(WORK)
    apart, together = (simulate(on_processes(PLAN, places), costs, World()) for places in ([0, 1], [0, 0]))
    assert apart.makespan == simulate(PLAN, costs, World()).makespan
    assert together.makespan == pytest.approx(row_seconds(PLAN, costs).sum())
    assert not len(together.messages)


def facts(costs: Costs, slower: float) -> dict[int, list[dict[str, Any]]]:
    """As if every row had taken what it costs; from the second chapter on, `slower` times as long."""
    seconds = row_seconds(PLAN, costs)
    told: dict[int, list[dict[str, Any]]] = {0: [], 1: []}
    for row, (node, chapter) in enumerate(zip(PLAN.node.tolist(), PLAN.chapter.tolist(), strict=True)):
        spent = seconds[row] * (slower if chapter else 1.0)
        times = {"begin": 100.0 * row, "end": 100.0 * row + 0.9 * spent, "handed": 100.0 * row + spent}
        told[node].append({"row": row, "sitting": 0, **times, "transfers": []})
    return told


def test_the_first_chapter_tells_what_slots_cost() -> None:
    costs = even(WORK)
    found = first_chapter(PLAN, facts(costs, 3.0), costs)
    assert found.train == pytest.approx(costs.train)
    assert found.forward[:2] == pytest.approx(costs.forward[:2])
    assert found.forward[2] == 0.0, "nobody forwards through the last block"
    assert found.ranking == pytest.approx(costs.ranking)
    told = {node: [f for f in each if PLAN.chapter[f["row"]]] for node, each in facts(costs, 3.0).items()}
    assert first_chapter(PLAN, told, costs).train == pytest.approx([3 * c for c in costs.train]), "else, all there are"
    assert first_chapter(PLAN, {}, costs).train == (0.0, 0.0, 0.0)


def test_links_are_as_fast_as_large_messages_came(tmp_path: Path) -> None:
    told = facts(even(WORK), 1.0)
    told[0][0]["transfers"] = [[5.0, 5.5, 0, "state", 1, 10**6, "receive"], [5.0, 9.0, 0, "state", 1, 10, "receive"]]
    assert forecast._link(told) == (2e6, ONE_HOST.latency)
    assert forecast._link(facts(even(WORK), 1.0)) == (ONE_HOST.bandwidth, ONE_HOST.latency)
    found, source = of(tmp_path, [0, 1]).after(told)
    assert source == "first chapter"
    assert found.makespan > 0
    assert (found.arrive > found.leave).all()


def test_the_planner_assumes_the_same_link(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--help"]) == 0
    assert f"{8 * ONE_HOST.bandwidth / 1e9:g}gbit" in capsys.readouterr().out


def test_a_run_of_seconds_is_not_measured_before(tmp_path: Path) -> None:
    assert not of(tmp_path, [0, 1]).worth_measuring()
    assert not of(tmp_path, [0, 1], network={"kind": "own"}).worth_measuring()


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run is long enough."""
    monkeypatch.setattr(forecast, "SHORT", 0.0)


@pytest.mark.usefixtures("always")
def test_measured_before_the_run(tmp_path: Path) -> None:
    heard: list[Event] = []
    undisturbed = train(RUN, data=DATA, out_dir=tmp_path / "measured", listener=heard.append).values
    costs, speeds = read_costs(tmp_path / "measured" / "slots" / "costs.json")
    assert undisturbed["predicted_from"] == "calibration"
    assert all(seconds > 0 for seconds in (*costs.train, *costs.forward, costs.ranking))
    assert speeds == ()
    starts = next(each for each in heard if isinstance(each, PlanStarts))
    assert starts.predicted.makespan == pytest.approx(undisturbed["predicted_seconds"], abs=1e-3)
    assert starts.predicted.makespan == pytest.approx(row_seconds(PLAN, costs).sum()), "one process, two nodes"
    assert sorted(path.name for path in (tmp_path / "measured" / "slots").glob("*") if path.is_dir()) == []


@pytest.mark.usefixtures("always")
def test_heads_with_dropout_are_measured(tmp_path: Path) -> None:
    """Their masks are drawn when an epoch begins. Measuring had no epochs, so every long run of them fell over."""
    run = small_run(
        **SETTINGS, objective={"kind": "local-cross-entropy", "dropout": 0.3}, readout={"kind": "last-head"}
    )
    assert train(run, data=DATA, out_dir=tmp_path / "run").values["predicted_from"] == "calibration"


@pytest.mark.usefixtures("always")
def test_measuring_changes_no_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = train(RUN, data=DATA, out_dir=tmp_path / "measured").values
    monkeypatch.undo()
    assert train(RUN, data=DATA, out_dir=tmp_path / "not").values["weights_sha256"] == measured["weights_sha256"]


@pytest.mark.usefixtures("always")
def test_a_run_that_goes_on_keeps_its_prediction(tmp_path: Path) -> None:
    stop = Stop()

    def hear(event: Event) -> None:
        if isinstance(event, RowDone) and event.row == 5:
            stop.exit_status = 75

    with pytest.raises(Stopped):
        train(RUN, data=DATA, out_dir=tmp_path / "run", listener=hear, stop=stop)
    before = (tmp_path / "run" / "slots" / "costs.json").read_text()
    values = resume(tmp_path / "run", data=DATA).values
    assert (tmp_path / "run" / "slots" / "costs.json").read_text() == before
    assert values["predicted_from"] == "calibration"
    assert values["train_seconds"] > 0


def test_costs_of_several_processes_are_averaged(tmp_path: Path) -> None:
    slow, fast = even(WORK, 3.0), even(WORK, 1.0)
    of(tmp_path, [0, 1]).note([slow, fast])
    assert read_costs(tmp_path / "costs.json") == (even(WORK, 2.0), ())
    unlike = of(tmp_path, [0, 1], speeds=(1.0, 3.0))
    unlike.note([slow, fast])
    _, speeds = read_costs(tmp_path / "costs.json")
    assert speeds == pytest.approx((2 / 3, 2.0))
    seconds = unlike.before().seconds[(PLAN.action == Action.TRAIN)]
    assert np.unique(seconds.round(9)).tolist() == [1.0, 3.0]
    assert unlike._noted() is not None
    assert of(tmp_path, [0, 0])._noted() is None, "speeds of two processes say nothing about one"


def test_a_damaged_file_is_no_prediction(tmp_path: Path) -> None:
    (tmp_path / "costs.json").write_text(json.dumps({"costs": {"train": 3}}))
    assert of(tmp_path, [0, 1])._noted() is None
