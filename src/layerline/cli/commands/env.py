"""`layerline env`."""

from __future__ import annotations

import argparse

from layerline.cli.output import add_format, print_json
from layerline.reporting.environment import describe, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Only the format."""
    add_format(parser)


def run(arguments: argparse.Namespace) -> None:
    """Versions and machine."""
    if arguments.format == "json":
        print_json(describe())
    else:
        print(table())
