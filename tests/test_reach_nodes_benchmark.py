"""`benchmarks/reach_nodes.py`: which runs there are, and what the table says when some of them are there."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import reach
import reach_nodes
from kept_cells import Results
from reach_plans import PIPELINE, Planner

from layerline.cli.flags import add_settings, settings_of
from layerline.cli.resolve import resolve
from layerline.stream_run import StreamRun


def asked(what: str, seeds: list[int]) -> argparse.Namespace:
    return argparse.Namespace(what=what, seeds=seeds, steps=40, parts=4)


@pytest.mark.parametrize("what", reach.WHAT)
def test_every_way_is_a_run_over_two_nodes_that_differs_from_the_table_of_reach_in_nothing_else(what: str) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_settings(parser, StreamRun)
    for cell in reach_nodes.cells(asked(what, [3])):
        run = resolve(cell.words[0], flags=settings_of(parser.parse_args(cell.flags)))
        assert isinstance(run, StreamRun)
        assert (run.nodes, run.microbatches, run.seed, run.max_steps) == (2, cell.parts, 3, 40)
        assert run.method == ("1f1b" if cell.way == PIPELINE else None)
        alone = reach.Cell(what, "all" if cell.way == PIPELINE else cell.way, 3).run
        back = {"nodes": 1, "microbatches": 1, "max_steps": None, "method": None, "eval_every": 1}
        assert run.replace(**back).digest() == alone.digest()


def test_the_table_has_what_is_there(tmp_path: Path) -> None:
    results, wanted = Results(tmp_path), reach_nodes.cells(asked("shakespeare", [0, 1, 2]))
    small = ("--network", "conv", "--network.widths", "64,64,64")
    planner = Planner.of(reach.Cell("resnet", "2", 0, small).run, measure=False)
    for cell in wanted:
        if (cell.way, cell.parts) == ("2", 1) and cell.seed != 1:
            results.keep(cell, {"steps_per_second": 2.0 + cell.seed})
    head, *rows = reach_nodes.lines(wanted, results, planner)
    assert head == ["reach", "microbatches", "measured", "planned", "of it"]
    ways = [[way, parts] for way in reach.REACHES for parts in ("1", "4")]
    assert [row[:2] for row in rows] == [*ways, [PIPELINE, "4"]], "1F1B takes no fewer microbatches than nodes"
    found = {(row[0], row[1]): row for row in rows}
    assert found["2", "1"][2] == "3 (2–4)"
    assert float(found["2", "1"][4]) == pytest.approx(3 / float(found["2", "1"][3]), rel=0.02)
    assert found["3", "4"][2] == found["3", "4"][4] == "–"
