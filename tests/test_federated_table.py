"""`benchmarks/federated.py`: which run a cell is, which are kept, and what is printed when half of them are there."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import federated
from kept_cells import Results

from layerline.cli.flags import add_settings, settings_of
from layerline.cli.resolve import resolve
from layerline.run import Run


def run_of(cell: Any) -> Run:
    parser = argparse.ArgumentParser()
    add_settings(parser)
    run = resolve("federated-digits", flags=settings_of(parser.parse_args(["--beside", "none", *cell.flags])))
    assert isinstance(run, Run)
    return run


def test_every_cell_is_a_run_in_which_everybody_passes_over_its_data_as_often() -> None:
    seen = set()
    for cell in federated.cells([], [0], validation=False):
        run, (passes, *_) = run_of(cell), federated.DATA[cell.data]
        mean = run.schedule.kind == "federated" and run.schedule.average
        if cell.method == "fedavg, bytes":  # between rounds a block goes up and N - 1 come down; in a lap 1 and 1
            assert (run.chapter_count - 1) * cell.participants <= 2 * passes < run.chapter_count * cell.participants
            assert passes <= run.epochs <= passes + run.chapter_count
        else:
            assert run.epochs == (passes if mean else passes * cell.participants)
        assert run.nodes == cell.participants
        assert run.block_count == (1 if cell.method.startswith("fedavg") else 3)
        seen.add(cell.name)
    assert len(seen) == 2 * 3 * 2 * len(federated.METHODS)


def test_finished_cells_are_kept_until_their_command_changes(tmp_path: Path) -> None:
    results = Results(tmp_path / "results")
    first, second, *_ = federated.cells(["digits", "iid", "4"], [0], validation=False)
    assert results.find(first) is None
    results.keep(first, {"test_accuracy": 0.5})
    assert results.find(first) == {"test_accuracy": 0.5}
    assert results.find(second) is None
    path = next((tmp_path / "results").iterdir())
    path.write_text(path.read_text().replace('"--threads"', '"--seed"'))
    assert results.find(first) is None


def test_the_table_has_what_is_there(tmp_path: Path) -> None:
    results, wanted = Results(tmp_path), list(federated.cells(["digits", "iid"], [0, 1], validation=False))
    for cell in wanted:
        if cell.participants == 4 and cell.method == "averaged":
            sent = {"bytes_up": [6_000_000] * 4, "bytes_down": [6_000_000] * 4}
            results.keep(cell, {"test_accuracy": 0.9 + cell.seed / 50, "validation_accuracy": None} | sent)
    head, accuracies, traffic = federated.lines(wanted, results)
    column = head.index("averaged")
    assert accuracies[:3] == ["digits", "iid", "4"]
    assert accuracies[column] == "91.0 ± 1.4"
    assert traffic[column] == "2 / 6"  # a block for three counts once on its way up
    assert {line[head.index("relay")] for line in (accuracies, traffic)} == {"–"}
