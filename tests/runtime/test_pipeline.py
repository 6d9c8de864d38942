"""Plans in one process: the same bits as without a plan, where theory says so, and after any interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerline import api
from layerline.errors import CheckpointError, Stopped
from layerline.events import Event, RowDone, RowKept
from layerline.run import Run
from layerline.runtime.needs import last_slots
from layerline.runtime.pipeline import Measured, Pipeline
from layerline.runtime.planning import planned as planned_by
from layerline.runtime.stop import Stop
from layerline.schedules.plan import Action, Plan
from small_runs import LOCAL, UNSUPERVISED, plan_through, small_data, small_run, train_through

DATA = small_data()
BLOCKS = 3
SEQUENTIAL: dict[str, Any] = {"schedule": {"kind": "sequential"}}
ALL_LAYERS: dict[str, Any] = {"schedule": {"kind": "all-layers"}}
SINGLE_LAYER: dict[str, Any] = {"schedule": {"kind": "single-layer"}}
HANDED_OVER: dict[str, Any] = {"schedule": {"kind": "single-layer", "hand_over": "activations"}}
SHARED_RANKING: dict[str, Any] = {"schedule": {"kind": "single-layer", "ranking": "shared"}}
FEDERATED: dict[str, Any] = {"schedule": {"kind": "federated"}, "shards": {"kind": "dirichlet", "concentration": 1.0}}
DFF: dict[str, Any] = {"schedule": {"kind": "dff", "batch": "mini"}}
FULL: dict[str, Any] = {"schedule": {"kind": "dff", "batch": "full"}}

SOFTMAX: dict[str, Any] = {"readout": {"kind": "softmax"}}
UNJUDGED: dict[str, dict[str, Any]] = {
    "random": {},
    "fixed": {"negatives": {"kind": "fixed"}},
    "random, softmax": SOFTMAX,
    "local cross-entropy": LOCAL,
    "unsupervised": UNSUPERVISED,
}
JUDGED: dict[str, dict[str, Any]] = {
    "adaptive": {"negatives": {"kind": "adaptive"}},
    "adaptive, softmax": {"negatives": {"kind": "adaptive"}} | SOFTMAX,
    "sampled": {"negatives": {"kind": "sampled"}},
}


def planned(*tables: dict[str, Any], **settings: Any) -> Run:
    together = {key: value for table in tables for key, value in table.items()}
    return small_run(**({"order": "chapters", "epochs": 4, "chapters": 4} | together | settings))


def plan_of(run: Run) -> Plan:
    return planned_by(run, BLOCKS)


def carry_out(run: Run, folder: Path, stops: list[int] | None = None) -> str:
    return plan_through(run, plan_of(run), DATA, folder, stops or [])


@pytest.mark.parametrize("rule", UNJUDGED)
@pytest.mark.parametrize(
    ("schedule", "nodes"),
    [
        *((SEQUENTIAL, 1), (ALL_LAYERS, 1), (ALL_LAYERS, 2), (ALL_LAYERS, 3)),
        *((SINGLE_LAYER, 2), (SINGLE_LAYER, 3), (HANDED_OVER, 3), (DFF, 3)),
    ],
)
def test_the_same_computation_as_on_one_node(schedule: dict[str, Any], nodes: int, rule: str, tmp_path: Path) -> None:
    """Moments travel, nobody's scores are needed: who trains what makes no difference."""
    run = planned(UNJUDGED[rule], schedule, nodes=nodes)
    assert carry_out(run, tmp_path) == train_through(planned(UNJUDGED[rule]), DATA, []).sha256


def test_full_batches_are_minibatches_of_everything(tmp_path: Path) -> None:
    run = planned(FULL, nodes=3)
    assert carry_out(run, tmp_path) == train_through(planned(batch_size=len(DATA.train)), DATA, []).sha256


@pytest.mark.parametrize("rule", JUDGED)
def test_judged_negatives_on_one_node(rule: str, tmp_path: Path) -> None:
    for number, schedule in enumerate((SEQUENTIAL, ALL_LAYERS, SINGLE_LAYER)):
        run = planned(JUDGED[rule], schedule, nodes=1)
        assert carry_out(run, tmp_path / str(number)) == train_through(planned(JUDGED[rule]), DATA, []).sha256


WHERE_THEY_DIFFER = {
    "older negatives": (planned(JUDGED["adaptive"], ALL_LAYERS, nodes=2), planned(JUDGED["adaptive"])),
    "later blocks, older negatives": (planned(JUDGED["sampled"], SINGLE_LAYER, nodes=3), planned(JUDGED["sampled"])),
    "moments that stay": (planned(ALL_LAYERS, nodes=2, send_optimizer_state=False), planned()),
    "private data": (planned(FEDERATED, nodes=2), planned()),
    "averaged shards": (planned(ALL_LAYERS, nodes=6), planned()),
}


@pytest.mark.parametrize("why", WHERE_THEY_DIFFER)
def test_where_theory_says_they_differ(why: str, tmp_path: Path) -> None:
    ours, theirs = WHERE_THEY_DIFFER[why]
    assert carry_out(ours, tmp_path) != train_through(theirs, DATA, []).sha256


RUNS = {
    f"{name} {rule}": planned(rules[rule], schedule, nodes=nodes)
    for rules in (UNJUDGED, JUDGED)
    for rule in rules
    for name, schedule, nodes in [
        ("all-layers", ALL_LAYERS, 3),
        ("single-layer", SINGLE_LAYER, 3),
        ("ranking shared", SHARED_RANKING, 3),
        ("handed over", HANDED_OVER, 2),
        ("federated", FEDERATED, 3),
    ]
} | {
    "grid": planned(SINGLE_LAYER, nodes=6),
    "moments stay": planned(ALL_LAYERS, nodes=2, send_optimizer_state=False),
    "int8": planned(ALL_LAYERS, nodes=3, codec={"kind": "int8"}),
    "int8, adaptive": planned(JUDGED["adaptive"], ALL_LAYERS, nodes=2, codec={"kind": "int8"}),
    "int8, unequal nodes": planned(
        ALL_LAYERS, nodes=3, speeds=(1.0, 0.6, 0.3), epochs=8, chapters=8, codec={"kind": "int8"}
    ),
    "int8, weights": planned(SINGLE_LAYER, nodes=3, codec={"kind": "int8"}),
    "int8, moments stay": planned(ALL_LAYERS, nodes=2, codec={"kind": "int8"}, send_optimizer_state=False),
    "bf16": planned(HANDED_OVER, nodes=3, codec={"kind": "bf16"}),
    "full batches": planned(FULL, nodes=3),
    "averaged": planned({"schedule": {"kind": "federated", "average": True}}, nodes=2),
}


@pytest.mark.parametrize("name", RUNS)
@settings(max_examples=3, deadline=None)
@given(stops=st.lists(st.integers(1, 20), max_size=4))
def test_stopping_anywhere(name: str, stops: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    """At most the slot in flight is computed again, and the bits are those of an undisturbed run."""
    run = RUNS[name]
    undisturbed = carry_out(run, tmp_path_factory.mktemp("undisturbed"))
    folder = tmp_path_factory.mktemp("stopped")
    assert carry_out(run, folder, stops) == undisturbed
    plan = plan_of(run)
    assert kept(folder) == set(last_slots(plan)), "nothing stays but the finished model"
    trained = [each["row"] for facts in told(run, folder).facts.values() for each in facts if each["durable"]]
    assert len(trained) == len(set(trained)) == int((plan.action != Action.FORWARD).sum()), "none is done twice"


def kept(folder: Path) -> set[int]:
    """The rows that have a result on disk."""
    return {int(path.stem) for path in (folder / "slots").glob("*.safetensors")}


@pytest.mark.parametrize("schedule", [ALL_LAYERS, SINGLE_LAYER], ids=["all-layers", "single-layer"])
def test_old_slots_go_while_the_run_goes_on(schedule: dict[str, Any], tmp_path: Path) -> None:
    """As many chapters are on disk as nodes are at work, not all twenty."""
    run = planned(schedule, nodes=2, epochs=20, chapters=20)
    pipeline, most = Pipeline(run, plan_of(run), DATA, tmp_path), 0

    def hear(event: Event) -> None:
        nonlocal most
        most = max(most, len(kept(tmp_path))) if isinstance(event, RowKept) else most

    pipeline.work(hear, Stop(), pipeline.here())
    assert most <= BLOCKS * (run.nodes + 2)


def told(run: Run, folder: Path) -> Measured:
    plan = plan_of(run)
    return Measured.of(Pipeline(run, plan, DATA, folder).slots, plan.nodes)


def test_metrics_come_in_the_plans_order(tmp_path: Path) -> None:
    run = planned(ALL_LAYERS, nodes=2)
    carry_out(run, tmp_path, [3, 4])
    rows = told(run, tmp_path).rows()
    assert [(row.epoch, row.block) for row in rows] == [(epoch, str(b)) for epoch in (1, 2, 3, 4) for b in (1, 2, 3)]
    sequential = train_through(planned(), DATA, []).rows
    assert rows == sequential
    assert told(run, tmp_path).sittings == 1, "the sitting is told by whoever starts the run"


def test_what_a_run_says_about_its_nodes() -> None:
    """Two sittings of two nodes: 10 s and 4 s, the hour between them not counted."""

    def fact(sitting: int, begin: float, end: float) -> dict[str, Any]:
        return {"row": 0, "sitting": sitting, "begin": begin, "end": end, "bytes": 5, "metrics": []}

    facts = {0: [fact(0, 100.0, 106.0), fact(1, 3700.0, 3703.0)], 1: [fact(0, 102.0, 110.0), fact(1, 3701.0, 3704.0)]}
    values = Measured(facts).values(2)
    assert Measured(facts).seconds == 14.0
    assert values["busy_seconds"] == [9.0, 11.0]
    assert values["idle_seconds"] == [5.0, 3.0]
    assert (values["utilisation"], values["speedup"]) == (0.7143, 1.4286)
    assert values["bytes_sent"] == 20
    assert Measured(facts).values(4)["utilisation"] == 0.3571


def test_a_result_that_is_gone_is_missed_at_once(tmp_path: Path) -> None:
    """Nobody waits for what no node will make again."""
    run = planned(ALL_LAYERS, nodes=2)
    stopped_after(run, tmp_path, 9)
    for path in (tmp_path / "slots").glob("*.safetensors"):
        path.unlink()
    with pytest.raises(CheckpointError, match="still needed"):
        carry_out(run, tmp_path, [])


def stopped_after(run: Run, folder: Path, row: int) -> None:
    """A sitting that ends after a row."""
    pipeline, stop = Pipeline(run, plan_of(run), DATA, folder), Stop()

    def hear(event: Event) -> None:
        if isinstance(event, RowDone) and event.row == row:
            stop.exit_status = 75

    with pytest.raises(Stopped, match="of 12 slots, which are saved"):
        pipeline.work(hear, stop, pipeline.here())


def test_stopped_without_a_folder() -> None:
    """There is nothing to go on from, and nobody is told to."""
    with pytest.raises(Stopped, match=r"nothing was saved$"):
        api.train(planned(ALL_LAYERS, nodes=2), data=DATA, stop=Stop(75))


def test_another_runs_slots_are_refused(tmp_path: Path) -> None:
    carry_out(planned(ALL_LAYERS, nodes=2), tmp_path, [])
    with pytest.raises(CheckpointError, match="of another run"):
        carry_out(planned(ALL_LAYERS, nodes=3), tmp_path, [])


def test_a_damaged_slot_is_refused(tmp_path: Path) -> None:
    run = planned(ALL_LAYERS, nodes=2)
    stopped_after(run, tmp_path, 9)
    for path in (tmp_path / "slots").glob("*.safetensors"):
        damaged = bytearray(path.read_bytes())
        damaged[-3] ^= 1
        path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="damaged"):
        carry_out(run, tmp_path, [])


@pytest.mark.parametrize("name", ["int8, adaptive", "int8, unequal nodes"])
def test_differences_go_on_where_they_were(name: str, tmp_path: Path) -> None:
    """Once, a restart forgot what a link had carried last: behind negatives, or on a ring that is no circle."""
    run = RUNS[name]
    undisturbed = carry_out(run, tmp_path / "undisturbed")
    for stop in range(2, 72 if run.nodes == 3 else 36, 3):
        assert carry_out(run, tmp_path / str(stop), [stop]) == undisturbed, f"stopped after {stop} minibatches"


def test_an_empty_part_of_the_ranking(tmp_path: Path) -> None:
    """A node with nothing to spare ranks no image at all."""
    run = planned(JUDGED["adaptive"], SHARED_RANKING, nodes=3)
    node = Pipeline(run, plan_of(run), DATA, tmp_path).nodes[0]
    assert node.negatives(1, node.scores(range(5, 5)), range(5, 5)).shape == (0,)
