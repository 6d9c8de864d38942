"""Cells of a table: runs through the command line, so that a benchmark can stop at any time, and goes on.

What there is in --results:

    shakespeare_reach-2_seed-0.json            a finished cell: its flags and its `result.json`
    shakespeare_reach-3_seed-0.5c1d09a2.run    the run folder of one that was begun, by its flags
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table

from layerline.errors import LayerlineError


class Cell(Protocol):
    """A run of a table."""

    @property
    def name(self) -> str:
        """Words, also of its file."""

    @property
    def flags(self) -> list[str]:
        """What makes it this run."""

    @property
    def words(self) -> list[str]:
        """Of `layerline train`: what it starts from, and all flags."""


@dataclass(frozen=True)
class Results:
    """Finished cells, each in a file of its own, and those under way."""

    folder: Path

    def find(self, cell: Cell) -> dict[str, Any] | None:
        """What `result.json` said, if the cell was trained with these flags."""
        try:
            kept: dict[str, Any] = json.loads(self._path(cell).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return kept["result"] if kept["flags"] == cell.flags else None

    def train(self, cell: Cell) -> dict[str, Any]:
        """Train a cell, or go on with it, and keep what it gave. CalledProcessError where it fails."""
        folder = self.under_way(cell)
        result = train(*cell.words, folder=folder) | {"run_dir": None}  # it is deleted, and says whose machine it was
        self.keep(cell, result)
        shutil.rmtree(folder)
        return result

    def under_way(self, cell: Cell) -> Path:
        """The run folder of a cell until it is finished."""
        return self._path(cell).with_suffix(f".{zlib.crc32(json.dumps(cell.words).encode()):08x}.run")

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


@contextmanager
def told(parser: argparse.ArgumentParser) -> Iterator[None]:
    """What goes wrong ends the benchmark with one line and status 1; finished cells stay."""
    try:
        yield
    except LayerlineError as error:
        parser.exit(1, f"error: {error}\n")
    except subprocess.CalledProcessError as error:
        parser.exit(1, f"error: a cell ended with status {error.returncode}; finished ones are kept\n")


def complete(wanted: Sequence[Cell], results: Results, in_words: Callable[[dict[str, Any]], str]) -> None:
    """Train the cells that are missing, and say what each gave. CalledProcessError where one fails; the others stay."""
    for number, cell in enumerate(wanted, start=1):
        if results.find(cell) is None:
            result = results.train(cell)
            said = f"{number}/{len(wanted)} {cell.name}: {in_words(result)} in {result['train_seconds']:.0f} s"
            print(said, file=sys.stderr, flush=True)


def train(*words: str, folder: Path | None = None) -> dict[str, Any]:
    """`result.json` of `layerline train WORDS` in a process of its own. CalledProcessError where it fails.

    `folder`: the run folder; a run that was begun there goes on. Left out: one that is deleted.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as parent:
            return train(*words, folder=Path(parent) / "run")
    begun = (folder / "config.toml").exists()
    asked = ["resume", str(folder)] if begun else ["train", *words, "--out-dir", str(folder)]
    command = [sys.executable, "-m", "layerline", *asked, "--quiet", "--format", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            said, _ = process.communicate()
        except KeyboardInterrupt:  # it was asked as well, and saves itself
            sys.exit(process.wait())
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    values: dict[str, Any] = json.loads(said.splitlines()[-1])
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
