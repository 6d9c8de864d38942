from __future__ import annotations

import sys
from pathlib import Path

import pytest

from layerline.api import train
from layerline.errors import UsageError
from layerline.events import EpochDone, Evaluated, Minibatch, Row, Started
from layerline.reporting.tensorboard import Board, require_tensorboard
from reporting.tiny import tiny_data, tiny_run

FIRST, SECOND = Row(1, "1", 0.5, 0.75, 1.5, 0.25), Row(2, "head", 0.25, 1.0)


def test_without_the_extra_the_error_says_how_to_get_it_and_no_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UsageError, match=r"pip install 'layerline\[tensorboard\]'"):
        train(tiny_run(), data=tiny_data(), out_dir=tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()


class FakeWriter:
    """Keeps what it is told."""

    told: list[tuple[str, float, int]]

    def __init__(self, folder: str) -> None:
        FakeWriter.told = []

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.told.append((tag, value, step))

    def flush(self) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize("began_with_it", [True, False])
def test_a_resumed_run_shows_its_earlier_epochs_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, began_with_it: bool
) -> None:
    monkeypatch.setattr("layerline.reporting.tensorboard.require_tensorboard", lambda: FakeWriter)
    if began_with_it:
        (tmp_path / "events.out.tfevents.1").touch()
    board = Board(tmp_path)
    for event in (Started("p", "", 1, 2, 2, [FIRST]), Minibatch(2, "head"), EpochDone(2, [SECOND])):
        board(event)
    board(Evaluated(2, "validation", 0.5, 1.0))
    board.close()
    earlier = [
        ("loss/block-1", 0.5, 1),
        ("accuracy/block-1", 0.75, 1),
        ("goodness_positive/block-1", 1.5, 1),
        ("goodness_negative/block-1", 0.25, 1),
    ]
    new = [("loss/head", 0.25, 2), ("accuracy/head", 1.0, 2), ("held_out/validation", 0.5, 2)]
    assert FakeWriter.told == ([] if began_with_it else earlier) + new


def test_a_run_folder_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layerline.api.require_tensorboard", lambda: None)
    with pytest.raises(UsageError, match="out_dir"):
        train(tiny_run(), data=tiny_data(), tensorboard=True)


def test_tensorboard_reads_what_a_real_run_wrote(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    require_tensorboard()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = train(tiny_run(eval_every=1), data=tiny_data(), out_dir=tmp_path / "run", tensorboard=True)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    losses = {row.epoch: row.loss for row in result.rows if row.block == "2"}
    assert {event.step: event.value for event in events.Scalars("loss/block-2")} == pytest.approx(losses)
    assert len(events.Scalars("held_out/test")) == 2
