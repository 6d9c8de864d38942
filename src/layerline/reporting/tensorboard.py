"""The numbers of a run for TensorBoard (the extra `layerline[tensorboard]`).

    loss/block-1  accuracy/block-1  goodness_positive/block-1 …      per epoch
    loss/head     accuracy/head                                      where the readout has a head
    held_out/test  bits_per_character/validation                     where it is measured during training

A resumed run goes on in a file of its own in the same folder. Epochs trained twice, because the run was killed after
the last checkpoint, come twice with the same values: a resumed run repeats itself to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from layerline.errors import UsageError
from layerline.events import EpochDone, Evaluated, Event, Row, Started


def require_tensorboard() -> Any:
    """PyTorch's writer class. UsageError with the command to run where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError(
            "TensorBoard is not installed",
            hint="install it (pip install 'layerline[tensorboard]'), or leave out --tensorboard",
        ) from None
    return SummaryWriter


class Board:
    """A listener that writes to a folder TensorBoard can show."""

    def __init__(self, folder: Path) -> None:
        self._new = not any(folder.glob("events.out.*"))
        self._writer = require_tensorboard()(str(folder))

    def __call__(self, event: Event) -> None:
        if isinstance(event, EpochDone) or (isinstance(event, Started) and self._new):
            self._add(event.rows)
        elif isinstance(event, Evaluated):
            self._writer.add_scalar(f"held_out/{event.split}", event.accuracy, event.epoch)
            if event.bits is not None:
                self._writer.add_scalar(f"bits_per_character/{event.split}", event.bits, event.epoch)
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()

    def _add(self, rows: Iterable[Row]) -> None:
        for row in rows:
            name = row.block if row.block == "head" else f"block-{row.block}"
            for number in ("loss", "accuracy", "goodness_positive", "goodness_negative"):
                value = getattr(row, number)
                if value is not None:
                    self._writer.add_scalar(f"{number}/{name}", value, row.epoch)
