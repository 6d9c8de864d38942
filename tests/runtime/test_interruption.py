"""A run that was stopped, anywhere and as often as you like, ends with the bits of one that was not."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from layerline.errors import Stopped
from layerline.runtime.checkpoint import Checkpoints
from layerline.runtime.execute import Execution, make_trainer
from layerline.runtime.stop import Stop
from small_runs import LOCAL, UNSUPERVISED, Outcome, fresh_model, minibatches, small_data, small_run, train_through

DATA = small_data(count=37, classes=4)
IMAGES = {"augment": {"shift": 1, "flip": True}}
POLICIES = ["fixed", "random", "adaptive", "sampled"]

CASES: dict[str, dict[str, Any]] = {
    f"{negatives}, {readout}": {"negatives": {"kind": negatives}, "readout": {"kind": readout}}
    for negatives in POLICIES
    for readout in ("goodness", "softmax")
} | {
    "local heads, dropout, augmented": LOCAL
    | IMAGES
    | {"objective": {"kind": "local-cross-entropy", "dropout": 0.3}, "network": {"kind": "mlp", "widths": [9, 8]}},
    "local heads, softmax readout": LOCAL | {"readout": {"kind": "softmax"}},
    "unsupervised, augmented": UNSUPERVISED | IMAGES,
    "peer, bf16, cool-down": {
        "objective": {"kind": "forward-forward", "peer": 0.03},
        "precision": "bf16-mixed",
        "rate": {"kind": "cool-down"},
    },
    "two epochs a chapter, augmented": IMAGES
    | {
        "epochs": 4,
        "chapters": 2,
        "negatives": {"kind": "adaptive"},
        "network": {"kind": "mlp", "widths": [9, 8]},
    },
    "same minibatches, looks": {"shuffle": "once", "eval_every": 1},
}


def convolutions() -> list[nn.Module]:
    return [
        nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()),
        nn.Sequential(nn.Flatten(), nn.Linear(75, 10), nn.ReLU(), nn.Dropout(0.3)),
    ]


OWN: dict[str, dict[str, Any]] = {
    "own modules, heads": LOCAL,
    "own modules, adaptive": {"negatives": {"kind": "adaptive"}},
    "own modules, softmax": {"readout": {"kind": "softmax"}},
}


# Only in simultaneous training.
JUDGED: dict[str, dict[str, Any]] = {
    "judged by the first block": {"negatives": {"kind": "sampled", "judge": "first-block"}},
    "judged by the first block, softmax": {
        "negatives": {"kind": "sampled", "judge": "first-block"},
        "readout": {"kind": "softmax"},
    },
}


@cache
def undisturbed(case: str, order: str) -> Outcome:
    return train_through(run_of(case, order), DATA, [], blocks=blocks_of(case))


def run_of(case: str, order: str) -> Any:
    return small_run(**{"order": order} | (CASES | OWN | JUDGED)[case])


def blocks_of(case: str) -> Any:
    return convolutions if case in OWN else None


@pytest.mark.parametrize(
    ("case", "order"),
    [(case, order) for case in (CASES | OWN) for order in ("chapters", "simultaneous")]
    + [(case, "simultaneous") for case in JUDGED],
)
@given(data=st.data())
@settings(max_examples=5, deadline=None)
def test_stopping_anywhere(case: str, order: str, data: st.DataObject) -> None:
    expected = undisturbed(case, order)
    run, blocks = run_of(case, order), blocks_of(case)
    last = minibatches(run, DATA, blocks)
    stops = data.draw(st.lists(st.integers(1, last), min_size=1, max_size=3), label="minibatches of each part")
    with tempfile.TemporaryDirectory() as folder:
        outcome = train_through(run, DATA, stops, Path(folder), blocks)
    assert outcome.sha256 == expected.sha256
    assert outcome.rows == expected.rows
    assert outcome.curve == expected.curve


@pytest.mark.parametrize("order", ["chapters", "simultaneous"])
def test_stopping_everywhere(order: str, tmp_path: Path) -> None:
    """After every single minibatch, each part in a fresh trainer."""
    case = "adaptive, softmax"
    run = run_of(case, order)
    outcome = train_through(run, DATA, [1] * minibatches(run, DATA), tmp_path)
    expected = undisturbed(case, order)
    assert outcome.sha256 == expected.sha256
    assert outcome.rows == expected.rows


def test_a_finished_run_goes_nowhere(tmp_path: Path) -> None:
    run = small_run()
    first = train_through(run, DATA, [], tmp_path)
    again = train_through(run, DATA, [], tmp_path)
    assert again.sha256 == first.sha256
    assert again.rows == first.rows


def test_a_checkpoint_after_every_minibatch_changes_nothing(tmp_path: Path) -> None:
    run = small_run(checkpoint_seconds=0.0)
    assert train_through(run, DATA, [], tmp_path).sha256 == train_through(small_run(), DATA, []).sha256
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"{minibatches(run, DATA):08d}.safetensors", "latest.json"], "only the last one is kept"


@pytest.mark.parametrize("status", [130, 75])
def test_the_error_says_how_to_go_on(status: int, tmp_path: Path) -> None:
    run = small_run()
    stop = Stop(exit_status=status)
    folder = tmp_path / "checkpoints"
    checkpoints = Checkpoints(folder, run.digest(), DATA.digest())
    execution = Execution(make_trainer(fresh_model(run, DATA), DATA), DATA, checkpoints, lambda event: None, stop)
    with pytest.raises(Stopped, match="after 1 of 6 minibatches") as stopped:
        execution.run()
    assert stopped.value.exit_status == status
    assert stopped.value.hint == f"go on with: layerline resume {tmp_path}"
    assert (folder / "00000001.safetensors").is_file()
    unsaved = Execution(make_trainer(fresh_model(run, DATA), DATA), DATA, None, lambda event: None, stop)
    with pytest.raises(Stopped, match="nothing was saved"):
        unsaved.run()
