"""Cells of a table: runs through the command line, each kept as a file, so that a benchmark can stop and go on."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table


class Cell(Protocol):
    """A run of a table."""

    @property
    def name(self) -> str:
        """Words, also of its file."""

    @property
    def flags(self) -> list[str]:
        """Of `layerline train`: what makes it this run."""

    def train(self) -> dict[str, Any]:
        """`result.json` of the run. CalledProcessError where it fails."""


@dataclass(frozen=True)
class Results:
    """Finished cells, each in a file of its own."""

    folder: Path

    def find(self, cell: Cell) -> dict[str, Any] | None:
        """What `result.json` said, if the cell was trained with these flags."""
        try:
            kept: dict[str, Any] = json.loads(self._path(cell).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return kept["result"] if kept["flags"] == cell.flags else None

    def keep(self, cell: Cell, result: dict[str, Any]) -> None:
        """Whole, or not at all."""
        path = self._path(cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".part")
        beside.write_text(json.dumps({"flags": cell.flags, "result": result}, indent=1) + "\n", encoding="utf-8")
        beside.replace(path)

    def _path(self, cell: Cell) -> Path:
        return self.folder / f"{cell.name.replace(' ', '_')}.json"


def parser_of(description: str | None, folder: str) -> argparse.ArgumentParser:
    """For a table of cells whose other flags are for `layerline train`; `folder`: where finished ones are kept."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=Path(folder), help="Where finished cells are kept.")
    parser.add_argument("--table", action="store_true", help="Train nothing: print what there is.")
    parser.add_argument("--markdown", action="store_true")
    return parser


def complete(wanted: Sequence[Cell], results: Results, in_words: Callable[[dict[str, Any]], str]) -> None:
    """Train the cells that are missing, and say what each gave. CalledProcessError where one fails; the others stay."""
    for number, cell in enumerate(wanted, start=1):
        if results.find(cell) is None:
            result = cell.train()
            results.keep(cell, result)
            said = f"{number}/{len(wanted)} {cell.name}: {in_words(result)} in {result['train_seconds']:.0f} s"
            print(said, file=sys.stderr, flush=True)


def train(*words: str) -> dict[str, Any]:
    """`result.json` of `layerline train WORDS` in a process of its own. CalledProcessError where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "layerline", "train", *words, "--quiet", "--format", "json"]
        command += ["--out-dir", str(Path(folder) / "run")]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    values: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return values


def accuracy(result: dict[str, Any]) -> float:
    """In %, on the validation split where the run held one out, else on the test set."""
    found = result["validation_accuracy"]
    return 100 * float(result["test_accuracy"] if found is None else found)


def show(table: Sequence[Sequence[str]], markdown: bool) -> None:
    """A table, its first row the heads: on the screen, or as Markdown."""
    if markdown:
        rows = [table[0], ["---"] * len(table[0]), *table[1:]]
        print("\n".join("| " + " | ".join(row) + " |" for row in rows))
        return
    drawn = Table(*table[0])
    for row in table[1:]:
        drawn.add_row(*row)
    Console().print(drawn)
