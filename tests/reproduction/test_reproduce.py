"""`layerline reproduce pff-tables` on digits with tiny blocks: real runs."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from safetensors.torch import load_file

from layerline.cli.main import main
from layerline.reporting.run_folder import RunFolder
from layerline.reproduction.cells import CELLS
from layerline.run import Run
from layerline.runtime.slots import Slots

_TINY = ["--dataset", "digits", "--widths", "16,16,16,16", "--batch-size", "256"]
_ALONE = ["--processes", "1"]


class Answer(NamedTuple):
    """Exit status, standard output, standard error."""

    status: int
    out: str
    err: str


def reproduce(folder: Path, *words: str) -> Answer:
    """The command, in this process, with everything below `folder`."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["reproduce", "pff-tables", *_TINY, *words])
    return Answer(status, out.getvalue(), err.getvalue())


def _tables(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "tables.json").read_text())
    return values


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where all cells were run."""
    folder = tmp_path_factory.mktemp("whole")
    done = reproduce(folder, "--epochs", "2", *_ALONE, "--quiet")
    assert done.status == 0, done.err
    assert done.err == "written: runs/reproduce/pff-tables-2/tables.md\n"
    assert done.out == (folder / "runs/reproduce/pff-tables-2/tables.md").read_text() + "\n"
    return folder


def test_every_cell_beside_the_papers_number(whole: Path) -> None:
    folder = whole / "runs/reproduce/pff-tables-2"
    tables = _tables(folder)
    assert (tables["finished"], tables["cells"], tables["epochs"], tables["seeds"]) == (33, 33, 2, [0])
    assert [sum(line["table"] == table for line in tables["lines"]) for table in range(1, 6)] == [9, 6, 18, 6, 15]
    for line in tables["lines"]:
        assert 0.05 < line["accuracy"] == line["accuracies"]["0"] < 1
        assert line["spread"] is None
        assert line["planned_from"] == (None if line["schedule"] == "sequential" else "measured slots")
        assert line["measured_speedup"] is None, "one process measures no speed-up"
    heads = [line for line in tables["lines"] if line["table"] == 4]
    assert [line["readout"] for line in heads] == ["all-heads", "last-head"] * 3
    assert heads[0]["accuracy"] != heads[1]["accuracy"]
    assert (heads[0]["paper_accuracy"], heads[1]["paper_accuracy"]) == (0.9838, 0.983)
    result = json.loads((folder / "mnist-performance-optimized-all-layers/seed-0/result.json").read_text())
    assert result["readouts"]["last-head"] == heads[5]["accuracy"]


def test_cells_of_one_computation_end_with_the_same_bits(whole: Path) -> None:
    """Each was run, so each says its own accuracy; and those said to be the same computation are."""
    folder = whole / "runs/reproduce/pff-tables-2"
    found: dict[Any, set[str]] = {}
    cells: dict[Any, set[str]] = {}
    for path in folder.glob("*/seed-0"):
        cell, run = next(c for c in CELLS if c.name == path.parent.name), RunFolder(path).run()
        assert isinstance(run, Run)
        computation = cell.computation(run)
        if computation is None:
            assert "adaptive" in cell.name
            continue
        tensors = load_file(path / "model/model.safetensors")
        blocks = [tensors[name].numpy().tobytes() for name in sorted(tensors) if not name.startswith("readout.")]
        found.setdefault(computation, set()).add(hashlib.sha256(b"".join(blocks)).hexdigest())
        cells.setdefault(computation, set()).add(cell.name)
    assert {computation: len(names) for computation, names in cells.items()} == {
        ("mnist", "random"): 6,
        ("mnist", "fixed"): 6,
        ("mnist", "local cross-entropy"): 3,
        ("cifar-10", "random"): 3,
        ("cifar-10", "fixed"): 3,
        ("cifar-10", "local cross-entropy"): 3,
    }
    assert all(len(digests) == 1 for digests in found.values()), found
    assert not any(line["same_as"] for line in _tables(folder)["lines"])


def test_a_cell_that_was_not_run_has_the_accuracy_of_one_with_the_same_bits(whole: Path, tmp_path: Path) -> None:
    name = "mnist-random-softmax-all-layers"
    there = whole / "runs/reproduce/pff-tables-2" / name
    shutil.copytree(there, tmp_path / "here" / name)
    done = reproduce(tmp_path, "--epochs", "2", "--only", name, "--out-dir", "here", "--quiet")
    assert done.status == 0
    lines = {(line["table"], line["cell"], line["readout"]): line for line in _tables(tmp_path / "here")["lines"]}
    readouts = json.loads((there / "seed-0/result.json").read_text())["readouts"]
    for table, cell, readout in [
        (3, "mnist-random-softmax-sequential", "softmax"),
        (3, "mnist-random-softmax-single-layer", "goodness"),
        (1, "mnist-random-goodness-sequential", "goodness"),
    ]:
        line = lines[table, cell, readout]
        assert (line["accuracy"], line["same_as"]) == (readouts[readout], [name])
        assert line["train_seconds"] is None
    planned = {cell: line["planned_from"] for (_, cell, _), line in lines.items() if line["planned_from"]}
    assert planned["mnist-random-softmax-single-layer"] == "measured slots"
    assert planned["mnist-random-goodness-single-layer"] == "cost model", "its nodes have no head"
    assert lines[3, name, "softmax"]["same_as"] == []
    assert lines[1, "mnist-adaptive-goodness-sequential", "goodness"]["accuracy"] is None
    assert f"| Random-NEG Goodness | Sequential | 1 | goodness | = {100 * readouts['goodness']:.2f} |" in done.out


def test_the_tables_say_how_they_came_about(whole: Path) -> None:
    text = (whole / "runs/reproduce/pff-tables-2/tables.md").read_text()
    assert "`layerline reproduce pff-tables --dataset digits --widths 16,16,16,16" in text
    assert "not the paper's cells:** on digits, blocks of 16, 16, 16, 16 units, minibatches of 256" in text
    assert "33 of 33 runs finished" in text
    assert "| Adaptive-NEG Goodness | All-Layers | 2 | goodness |" in text
    assert "3.75× |\n" in text


def test_what_is_finished_is_kept(whole: Path) -> None:
    results = sorted(whole.glob("runs/reproduce/*/*/seed-0/result.json"))
    before = [path.stat().st_mtime_ns for path in results]
    again = reproduce(whole, "--epochs", "2", *_ALONE, "--format", "json")
    assert again.status == 0
    assert "[1/33]" not in again.err
    assert json.loads(again.out) == _tables(whole / "runs/reproduce/pff-tables-2")
    assert [path.stat().st_mtime_ns for path in results] == before
    listed = reproduce(whole, "--epochs", "2", "--list")
    assert listed.out.count("finished took") == 33
    assert "33 of 33 finished" in listed.out


def test_other_settings_in_the_same_folder_are_refused(whole: Path) -> None:
    done = reproduce(whole, "--epochs", "2", "--precision", "32-true")
    assert done.status == 2
    assert "is a run with other settings than those given" in done.err


def test_interrupted_and_gone_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--epochs", "20", *_ALONE, "--only", "table-4", "--out-dir", "here"]
    second = tmp_path / "here/mnist-performance-optimized-single-layer/seed-0/slots/node-1.jsonl"
    tell = Slots.tell

    def interrupted(slots: Slots, node: int, facts: dict[str, Any]) -> None:
        """Ctrl-C, as the second run finishes a slot on its second node."""
        first = not second.exists()
        tell(slots, node, facts)
        if first and second.exists():
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Slots, "tell", interrupted)
    done = reproduce(tmp_path, *words)
    assert (done.status, done.out) == (130, "")
    assert "go on with: layerline reproduce pff-tables" in done.err
    assert "--only table-4 --out-dir here" in done.err
    assert _tables(tmp_path / "here")["finished"] == 1

    listed = reproduce(tmp_path, *words, "--list", "--format", "json")
    assert [each["state"] for each in json.loads(listed.out)["runs"]] == ["finished", "begun", "to do"]

    again = reproduce(tmp_path, *words)
    assert again.status == 0, again.err
    assert "[1/3]" not in again.err
    assert _tables(tmp_path / "here")["finished"] == 3
    notes = [json.loads(line) for line in second.read_text().splitlines() if line]
    assert {each["sitting"] for each in notes} == {0, 1}, "it went on, not from the start"


def test_a_run_that_fails_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    broken = tmp_path / "here/mnist-performance-optimized-single-layer"
    broken.parent.mkdir()
    broken.write_text("in the way")
    words = ["--epochs", "1", *_ALONE, "--only", "table-4", "--out-dir", "here", "--quiet"]
    done = reproduce(tmp_path, *words)
    assert done.status == 1
    assert "1 of 3 runs failed: mnist-performance-optimized-single-layer, seed 0" in done.err
    assert "Traceback" not in done.err
    assert _tables(tmp_path / "here")["finished"] == 2
    broken.unlink()
    assert reproduce(tmp_path, *words).status == 0
    assert _tables(tmp_path / "here")["finished"] == 3


def test_seeds(tmp_path: Path) -> None:
    done = reproduce(
        tmp_path, "--epochs", "1", "--seeds", "0,1", *_ALONE, "--only", "table-4 all-", "--quiet", "--format", "json"
    )
    assert done.status == 0, done.err
    lines = {(each["schedule"], each["readout"]): each for each in json.loads(done.out)["lines"] if each["table"] == 4}
    line = lines["all-layers", "all-heads"]
    zero, one = line["accuracies"]["0"], line["accuracies"]["1"]
    assert line["accuracy"] == pytest.approx((zero + one) / 2)
    assert line["spread"] == pytest.approx(abs(zero - one) / 2**0.5)
    missing = next(
        each for each in json.loads(done.out)["lines"] if each["cell"] == "cifar-10-fixed-softmax-all-layers"
    )
    assert (missing["accuracy"], missing["planned_from"]) == (None, "cost model")
    assert " ± " in (tmp_path / "runs/reproduce/pff-tables-1/tables.md").read_text()


def test_several_processes_measure_a_speedup(tmp_path: Path) -> None:
    words = ["--epochs", "2", "--processes", "2", "--only", "table-4 seq, table-4 all-layers", "--format", "json"]
    done = reproduce(tmp_path, *words, "--quiet")
    assert done.status == 0, done.err
    lines = {(each["schedule"], each["readout"]): each for each in json.loads(done.out)["lines"] if each["table"] == 4}
    one, many = lines["sequential", "all-heads"], lines["all-layers", "all-heads"]
    assert (one["processes"], many["processes"]) == (1, 2)
    assert many["measured_speedup"] == pytest.approx(one["train_seconds"] / many["train_seconds"])
    assert one["measured_speedup"] is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["pff-tables"], "how many epochs?"),
        (["pff-tables", "--epochs", "0"], "--epochs should be greater than or equal to 1, got 0"),
        (["pff-tables", "--epochs", "3", "--chapters", "2"], "2 chapters do not divide 3 epochs"),
        (["pff-tables", "--epochs", "1", "--only", "table-7"], "the tables are table-1 to table-5"),
        (["pff-tables", "--epochs", "1", "--only", "backprop"], "no cell matches --only 'backprop'"),
        (["pff-tables", "--epochs", "1", "--seeds", "0,x"], "'0,x' is no list of seeds"),
        (["pff-tables", "--epochs", "1", "--seeds", "-1"], "--seeds"),
        (["pff-tables", "--epochs", "1", "--processes", "0"], "at least one process"),
        (["pff-tables", "--epochs", "1", "--dataset", "digit"], "digit"),
        (["pff-tables", "--epochs", "1", "--widths", "8"], "leaves out 1 of 1 block"),
        (["pff-tables", "--epochs", "1", "--nodes", "2"], "unknown flag --nodes"),
        (["tables", "--epochs", "1"], "pff-tables"),
        ([], "pff-tables"),
    ],
)
def test_bad_requests(
    words: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", *words]) in (1, 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir()), "nothing was made"
