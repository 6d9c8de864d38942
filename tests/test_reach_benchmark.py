"""`benchmarks/reach.py`: which run a cell is, which are kept, and what is printed when half of them are there."""

from __future__ import annotations

from pathlib import Path

import pytest
import reach
import reach_plans as plans
from kept_cells import Results

from layerline.data.dataset import held_out
from layerline.errors import UsageError


@pytest.fixture(scope="module")
def planner() -> plans.Planner:
    """Of a network with few blocks, whose steps take longer than the links do."""
    small = ("--network", "conv", "--network.widths", "64,64,64")
    return plans.Planner.of(reach.Cell("resnet", "2", 0, small).run, measure=False)


def test_a_cell_is_a_run_with_its_reach_and_no_other_difference() -> None:
    for what in reach.WHAT:
        runs = {cell.reach: cell.run for cell in reach.cells(what, reach.REACHES, [3], ["--epochs", "2"])}
        assert [str(run.reach) for run in runs.values()] == ["1", "2", "3", "all"]
        assert len({run.replace(reach=2).digest() for run in runs.values()}) == 1
        assert {(run.seed, run.epochs, run.eval_every, run.threads) for run in runs.values()} == {(3, 2, 1, 1)}
        assert {run.validation or run.reads_text for run in runs.values()} == {True}  # the test set stays unread


def test_reaches_of_a_seed_come_before_the_next_seed() -> None:
    _, asked, more = reach.parse(["resnet", "--seeds", "0", "1", "--only-reach", "1", "all", "--seed", "7"])
    order = [(cell.seed, cell.reach) for cell in reach.cells(asked.what, asked.only_reach, asked.seeds, more)]
    assert order == [(0, "1"), (0, "all"), (1, "1"), (1, "all")]
    assert more == ["--seed", "7"]  # not an abbreviation of ours


def test_impossible_flags_are_one_error() -> None:
    with pytest.raises(UsageError, match="microbatches"):
        reach.Cell("resnet", "2", 0, ("--microbatches", "1000")).run  # noqa: B018


def test_finished_cells_are_kept_until_their_flags_change(tmp_path: Path) -> None:
    results, cell = Results(tmp_path / "results"), reach.Cell("shakespeare", "all", 0)
    assert results.find(cell) is None
    results.keep(cell, {"validation_bits_per_character": 2.5})
    assert results.find(cell) == {"validation_bits_per_character": 2.5}
    assert results.find(reach.Cell("shakespeare", "all", 0, ("--epochs", "2"))) is None


def test_the_table_has_what_is_there(tmp_path: Path, planner: plans.Planner) -> None:
    results, wanted = Results(tmp_path), list(reach.cells("shakespeare", ["1", "2", "all"], [0, 1, 2], []))
    for cell in wanted:
        if cell.reach == "2" and cell.seed != 1:
            values = {"validation_bits_per_character": 2.0 + cell.seed / 2, "validation_accuracy": 0.4}
            results.keep(cell, values | {"train_seconds": 100.0 + cell.seed})
    head, one, two, every, piped = reach.lines(wanted, results, planner, 4)
    assert head == ["reach", "seed 0", "seed 1", "seed 2", "mean", "training s", "3 × 1", "3 × 4", "2 × 1", "2 × 4"]
    assert two[:6] == ["2", "2.000", "–", "3.000", "2.500 ± 0.707", "101"]
    assert one[1:6] == every[1:6] == piped[1:6] == ["–"] * 5
    assert piped[6] == "–"  # takes as many microbatches as nodes
    assert float(every[6]) < float(every[7])  # without microbatches, nodes wait for backprop
    assert float(every[7]) == pytest.approx(float(piped[7]), rel=0.2)


def test_the_pipeline_says_how_many_microbatches_it_takes(planner: plans.Planner) -> None:
    assert plans.rates(planner, plans.PIPELINE, 2)[1].endswith(" (3)")


def test_an_epoch_has_the_minibatches_of_what_is_trained_on(planner: plans.Planner) -> None:
    assert planner.steps == -(-(50_000 - held_out(50_000)) // 128)


def test_a_curve_has_the_epochs_of_all_runs() -> None:
    first = {"curve": [{"epoch": e, "seconds": 10.0 * e, "validation": e / 10} for e in (1, 2, 3)]}
    second = {"curve": [{"epoch": e, "seconds": 20.0 * e, "validation": e / 5} for e in (1, 2)]}
    assert reach.curve([first, second]) == [(1, 15.0, [10.0, 20.0]), (2, 30.0, [20.0, 40.0])]
    bits = {"curve": [{"epoch": 1, "seconds": 1.0, "validation": 0.3, "bits_per_character": 2.5}]}
    assert reach.curve([bits]) == [(1, 1.0, [2.5])]
