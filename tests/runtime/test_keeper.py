"""Results go to disk beside compute: in order, noted when they are there, and a failure is heard."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from layerline.errors import LayerlineError
from layerline.runtime.keeper import Keeper
from layerline.runtime.slots import Slots


class SlowSlots(Slots):
    """A disk that writes when it is told to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, {})
        self.go = threading.Event()

    def save(self, row: int, tensors: dict[str, Tensor]) -> None:
        assert self.go.wait(10)
        super().save(row, tensors)


def facts(row: int) -> dict[str, object]:
    return {"row": row, "durable": True}


def test_nothing_is_noted_before_it_is_written(tmp_path: Path) -> None:
    slots = SlowSlots(tmp_path)
    keeper = Keeper(slots)
    keeper.keep(3, (0, 0), {"x": torch.ones(4)}, facts(3))
    keeper.settle()
    assert (slots.done(0), keeper.settled, slots.has(3)) == (set(), [], False)
    slots.go.set()
    keeper.settle((0, 1), everything=False)  # another place: nobody waits for it
    keeper.settle((0, 0))
    assert (slots.done(0), keeper.settled, slots.has(3)) == ({3}, [3], True)
    keeper.close()


def test_rows_that_leave_nothing_are_noted_in_order(tmp_path: Path) -> None:
    slots = SlowSlots(tmp_path)
    slots.go.set()
    keeper = Keeper(slots)
    for row in range(6):
        result = {"x": torch.full((2,), float(row))} if row % 2 else None
        keeper.keep(row, (0, row), result, {"row": row, "durable": bool(row % 2)})
    keeper.close()
    assert [each["row"] for each in slots.told(0)] == list(range(6))
    assert keeper.settled == [1, 3, 5]
    assert torch.equal(slots.load(5)["x"], torch.full((2,), 5.0))


def test_a_failed_write_is_heard(tmp_path: Path) -> None:
    """The folder turns into something that cannot be written to."""
    slots = Slots(tmp_path / "slots", {})
    keeper = Keeper(slots)
    slots.folder.rename(tmp_path / "away")
    slots.folder.write_text("a file")
    keeper.keep(1, (0, 0), {"x": torch.ones(1)}, facts(1))
    with pytest.raises(LayerlineError, match="cannot write"):
        keeper.settle(everything=True)
