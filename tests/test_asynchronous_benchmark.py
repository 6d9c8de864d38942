"""`benchmarks/asynchronous.py`: which runs its cells are, and what is printed of them."""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import asynchronous
import pytest
from kept_cells import Results, accuracy, complete

from layerline import api
from layerline.cli.flags import add_settings, settings_of
from layerline.cli.resolve import resolve
from layerline.errors import Stopped
from layerline.events import Event, Minibatch
from layerline.runtime.stop import Stop
from layerline.schedules.timing import Async
from layerline.stream_run import StreamRun


def run_of(cell: asynchronous.Cell) -> StreamRun:
    """What `layerline train` makes of its flags."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_settings(parser, StreamRun)
    run = resolve(asynchronous.WHAT[cell.what][0], flags=settings_of(parser.parse_args(cell.flags)))
    assert isinstance(run, StreamRun)
    return run


def wanted(*words: str) -> list[asynchronous.Cell]:
    _, asked, more = asynchronous.parse(words)
    return list(asynchronous.cells(asked, more))


@pytest.mark.parametrize("what", list(asynchronous.WHAT))
def test_every_cell_is_a_run_of_its_own(what: str) -> None:
    every = wanted(what, "--seeds", "0", "1")
    assert len({cell.name for cell in every}) == len(every)
    assert len({run_of(cell).digest() for cell in every}) == len(every)
    blocks = asynchronous.WHAT[what][2]
    assert len(every) == 2 * (1 + 3 * (1 + 3 * blocks) + len(asynchronous.CODES))


def test_a_row_is_over_the_blocks_that_are_slowed_down() -> None:
    slowed = [cell for cell in wanted("cifar-10", "--seeds", "0", "--slow", "2", "5") if cell.row.endswith("× 4")]
    found = [(cell.row, timing.slowdowns) for cell in slowed if isinstance(timing := run_of(cell).timing, Async)]
    for row in ("regular pace, M = 1, × 4", "random pace, M = 1, × 4", "random pace, M = 5, × 4"):
        assert [slow for name, slow in found if name == row] == [(1, 4, 1, 1, 1), (1, 1, 1, 1, 4)]


def test_flags_that_are_not_ours_belong_to_the_cells() -> None:
    every = wanted("cifar-10", "--epochs", "8", "--only", "codes", "--codes", "int8", "--seeds", "3")
    assert [cell.row for cell in every] == ["in step", "int8"]
    assert {(run.epochs, run.seed, run.validation) for run in map(run_of, every)} == {(8, 3, True)}


def test_a_real_cell_and_its_table_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = Results(tmp_path)
    words = ["digits", "--seeds", "0", "--only", "speeds", "--paces", "regular", "--factors", "2", "--slow", "2"]
    every = wanted(*words, "--max-steps", "6")
    complete(every, results, lambda result: f"{accuracy(result):.2f} %")
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == [
        "1/2 digits in step seed-0",
        "2/2 digits regular pace M = 1 × 2 block-2 seed-0",
    ]
    complete(every, results, str)
    assert capsys.readouterr().err == "", "what is kept is not trained again"
    accuracies = [accuracy(results.find(cell) or {}) for cell in every]
    head, step, slowed = asynchronous.lines(every, results)
    assert head == ["", "runs", "mean", "lowest", "highest", "ratio", "error"]
    assert step[:3] == ["in step", "1", f"{accuracies[0]:.2f}"]
    assert slowed[:3] == ["regular pace, M = 1, × 2", "1", f"{accuracies[1]:.2f}"]
    asynchronous.plot(every, results, tmp_path / "plot.svg")
    assert "in step" in (tmp_path / "plot.svg").read_text(encoding="utf-8")


def test_a_cell_that_was_stopped_goes_on(tmp_path: Path) -> None:
    """They were in folders that were deleted: a stop cost the ten minutes that a cell on CIFAR-10 takes."""
    cell, _ = wanted("digits", "--seeds", "0", "--only", "codes", "--codes", "int8", "--max-steps", "6")
    stop = Stop()

    def after_three(event: Event) -> None:
        if isinstance(event, Minibatch) and next(steps) == 3:
            stop.exit_status = 75

    results, steps = Results(tmp_path / "kept"), itertools.count(1)
    with pytest.raises(Stopped):
        api.train(run_of(cell), out_dir=results.under_way(cell), listener=after_three, stop=stop)
    assert results.train(cell)["weights_sha256"] == api.train(run_of(cell)).values["weights_sha256"]
    assert [path.suffix for path in (tmp_path / "kept").iterdir()] == [".json"]


def test_what_travels_is_counted_over_all_boundaries() -> None:
    boundaries = [{"bytes": 100, "ratio": 10.0, "error": 0.2}, {"bytes": 300, "ratio": 30.0, "error": 0.4}]
    assert asynchronous.travelled({"boundaries": boundaries}) == pytest.approx((25.0, 0.3))
    assert asynchronous.travelled({}) == (1.0, 0.0)
