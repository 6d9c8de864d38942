"""The paper's cells and numbers, without training anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerline.errors import UsageError
from layerline.objectives.local_cross_entropy import LocalCrossEntropy
from layerline.presets.paper import NUMBERS, TABLES, number, paper_speedup
from layerline.reproduction.cells import CELLS, Cell, Shared, chosen, jobs_of
from layerline.reproduction.times import expected
from layerline.runtime.slots import Slots
from layerline.schedules.plan import Action

MNIST = (1, 28, 28), 10, 60_000
HUNDRED = Shared(epochs=100)


def cell(name: str) -> Cell:
    return next(each for each in CELLS if each.name == name)


def test_every_number_of_the_paper_has_a_cell_that_can_give_it() -> None:
    for each in NUMBERS:
        cells = [c for c in CELLS if (c.dataset, c.model.name) == (each.dataset, each.model)]
        assert {c.schedule for c in cells} == {"sequential", "single-layer", "all-layers"}
        for c in cells:
            assert set(each.tables) <= set(c.tables)
            assert all(each.readout in c.readouts(table) for table in each.tables)
            available = {"goodness": "goodness", "softmax": "softmax", "all-heads": "heads", "last-head": "heads"}
            run = c.run(HUNDRED, 0)
            has = {"goodness": run.writes_labels, "softmax": c.model.head, "heads": not run.writes_labels}
            assert has[available[each.readout]]
    assert {table for each in NUMBERS for table in each.tables} == set(TABLES)


def test_the_papers_speedups() -> None:
    """As its text says them."""
    said = {
        ("adaptive-goodness", "single-layer"): 2.13,
        ("adaptive-goodness", "all-layers"): 3.75,
        ("random-softmax", "all-layers"): 4.54,
        ("fixed-goodness", "single-layer"): 3.72,
    }
    for (model, schedule), speedup in said.items():
        assert paper_speedup("mnist", model, schedule) == pytest.approx(speedup, abs=0.005)
    assert paper_speedup("mnist", "adaptive-goodness", "sequential") is None
    assert paper_speedup("cifar-10", "random-softmax", "all-layers") is None
    found = number("cifar-10", "random-softmax", "all-layers", "softmax")
    assert found is not None
    assert found.accuracy == 52.18


def test_the_head_has_a_node_of_its_own() -> None:
    assert cell("mnist-adaptive-goodness-all-layers").run(HUNDRED, 0).nodes == 4
    assert cell("mnist-adaptive-softmax-single-layer").run(HUNDRED, 0).nodes == 5
    assert cell("mnist-performance-optimized-all-layers").run(HUNDRED, 0).nodes == 4
    assert cell("mnist-adaptive-softmax-sequential").run(HUNDRED, 0).nodes == 1
    assert cell("mnist-adaptive-softmax-all-layers").run(Shared(epochs=3), 0).nodes == 3, "each has a chapter"


def test_a_cell_is_the_preset_with_its_model() -> None:
    run = cell("cifar-10-fixed-softmax-all-layers").run(Shared(epochs=20, send_optimizer_state=False), 7)
    assert (run.dataset, run.negatives.kind, run.readout.kind, run.objective.kind) == (
        "cifar-10",
        "fixed",
        "softmax",
        "forward-forward",
    )
    assert (run.epochs, run.chapters, run.seed, run.batch_size, run.threads) == (20, 20, 7, 64, 1)
    assert (run.rate.kind, run.order, run.labels.strength) == ("cool-down", "chapters", 5.0)
    assert not run.send_optimizer_state


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        (None, 33),
        ("all-layers", 11),
        ("table-1", 9),
        ("table-2", 6),
        ("table-1 all-layers", 3),
        ("table-1 all-layers, cifar-10", 15),
        ("mnist*softmax", 9),
        ("performance sequential", 2),
    ],
)
def test_patterns(pattern: str | None, count: int) -> None:
    assert len(chosen(pattern)) == count


@pytest.mark.parametrize("pattern", ["table-6", "backprop", "", " , "])
def test_a_pattern_that_matches_nothing(pattern: str) -> None:
    with pytest.raises(UsageError, match="no cell matches") as error:
        chosen(pattern)
    assert "--list" in str(error.value)
    assert ("table-1 to table-5" in str(error.value)) == pattern.startswith("table")


def test_planned_at_the_slot_costs_that_were_measured(tmp_path: Path) -> None:
    """Every slot one second, everything else nothing: S·L over the makespan of S + L − 1 slots."""
    run = cell("mnist-fixed-goodness-single-layer").run(HUNDRED, 0)
    assumed = expected(run, MNIST)
    assert not assumed.measured
    plan = assumed.found.plan
    slots = Slots(tmp_path / "slots", {})
    for row, (action, node) in enumerate(zip(plan.action.tolist(), plan.node.tolist(), strict=True)):
        takes = 1.0 if action == Action.TRAIN else 0.0
        slots.tell(node, {"row": row, "durable": False, "begin": 10.0, "end": 10.0 + takes})
    measured = expected(run, MNIST, [(run, tmp_path)])
    assert measured.measured
    assert measured.speedup == pytest.approx(400 / 103, abs=0.01)
    assert measured.seconds(4) == measured.found.makespan
    assert measured.seconds(1) == pytest.approx(400)


def test_sequential_takes_what_its_slots_take() -> None:
    plan = expected(cell("mnist-random-goodness-sequential").run(HUNDRED, 0), MNIST)
    assert plan.speedup == pytest.approx(1, abs=0.02)


def test_settings_that_cannot_work_are_said_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="3 chapters do not divide 10 epochs"):
        jobs_of(CELLS, Shared(epochs=10, chapters=3), [0], tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_keeps_what_the_preset_says_of_its_components() -> None:
    """`pff-cifar10` needs dropout before its heads; the table's model only says that there are heads."""
    objectives = {cell.dataset: cell.run(Shared(), 0).objective for cell in CELLS if "performance" in cell.name}
    assert objectives == {"mnist": LocalCrossEntropy(), "cifar-10": LocalCrossEntropy(dropout=0.5)}
