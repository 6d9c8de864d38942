"""What several commands share: arguments, one line of JSON, notes, and the progress of downloads."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from typing import Any

_SECONDS_BETWEEN = 0.2


def add_format(parser: argparse.ArgumentParser) -> None:
    """`--format`."""
    parser.add_argument(
        "--format",
        choices=("text", "json"),
        default="text",
        metavar="{text,json}",
        help="Text for people, or one line of JSON and nothing else on standard output.",
    )


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    """`--data-dir` and `--no-download`."""
    parser.add_argument(
        "--data-dir",
        metavar="FOLDER",
        help="Where data sets lie, as FOLDER/mnist/…; else LAYERLINE_DATA, else a cache.",
    )
    parser.add_argument("--no-download", action="store_true", help="Never fetch a data set from the network.")


def print_json(values: Mapping[str, Any]) -> None:
    """One line on standard output."""
    print(json.dumps(values, ensure_ascii=False))


def note(words: str) -> None:
    """A remark on standard error."""
    print(words, file=sys.stderr)


class Downloads:
    """The progress of downloads on standard error: a line that counts on a terminal, else a line per file."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet, self._file, self._due = quiet, "", 0.0

    def __call__(self, file: str, done: int, total: int | None) -> None:
        """Called often by the download, with the bytes so far and those in all, if they are known."""
        if self._quiet:
            return
        if not sys.stderr.isatty():
            if file != self._file:
                note(f"downloading {file}")
        elif file != self._file or done == total or time.monotonic() >= self._due:
            self._due = time.monotonic() + _SECONDS_BETWEEN
            of = f" of {total / 1e6:.1f}" if total else ""
            end = "\n" if done == total else ""
            print(f"\rdownloading {file}: {done / 1e6:.1f}{of} MB ", end=end, file=sys.stderr, flush=True)
        self._file = file
