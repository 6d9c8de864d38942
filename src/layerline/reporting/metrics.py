"""`metrics.csv`: the numbers of every epoch and block, readable while the run is going on.

Problem: a run may be killed after an epoch's line was written and before the checkpoint that has it, so that a resumed
run would write the line twice; the last line may be cut short, too.

Solution: when training begins or goes on, the file is replaced by the rows the checkpoint knows. After that every epoch
appends its rows in one write.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from layerline.events import Row
from layerline.files import cannot_write, write_text

COLUMNS = ("epoch", "block", "loss", "goodness_positive", "goodness_negative", "accuracy")


class Metrics:
    """The open `metrics.csv` of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None

    def start(self, rows: Iterable[Row]) -> None:
        """Replace the file by these rows, and keep it open for more. LayerlineError if it cannot be written."""
        self.close()
        write_metrics(self.path, rows)
        try:
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise cannot_write(self.path, error) from None

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows. LayerlineError if there is no room for them."""
        if self._file is None:
            self.start(())
        assert self._file is not None
        try:
            self._file.write(_lines(rows).encode())
        except OSError as error:
            raise cannot_write(self.path, error) from None

    def close(self) -> None:
        """Close the file; nothing is buffered."""
        if self._file is not None:
            self._file.close()
            self._file = None


def write_metrics(path: Path, rows: Iterable[Row]) -> None:
    """The whole file at once: a header and one line per row, empty where a block has no such number."""
    write_text(path, ",".join(COLUMNS) + "\n" + _lines(rows))


def _lines(rows: Iterable[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()
