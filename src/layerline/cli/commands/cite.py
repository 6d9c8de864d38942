"""`layerline cite [PRESET|RUN_DIR]`."""

from __future__ import annotations

import argparse
from pathlib import Path

from layerline.cli.resolve import resolve
from layerline.reporting.citations import citations
from layerline.reporting.run_folder import RunFolder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to cite for."""
    parser.add_argument(
        "what",
        nargs="?",
        default="digits",
        metavar="PRESET|RUN_DIR",
        help="A preset, the folder of a run, or a TOML file; left out: the preset digits.",
    )


def run(arguments: argparse.Namespace) -> None:
    """BibTeX on standard output."""
    path = Path(arguments.what)
    run = RunFolder.open(path).run() if path.is_dir() else resolve(arguments.what)
    print(citations(run), end="")
