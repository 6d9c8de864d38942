"""`layerline presets`."""

from __future__ import annotations

import argparse

from layerline.cli.output import add_format, print_json
from layerline.presets.presets import PRESETS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Only the format."""
    add_format(parser)


def run(arguments: argparse.Namespace) -> None:
    """Name, what it is, expected time and result."""
    if arguments.format == "json":
        print_json({"presets": [{"name": p.name, "title": p.title, "expect": p.expect} for p in PRESETS]})
        return
    width = max(len(p.name) for p in PRESETS)
    for p in PRESETS:
        print(f"{p.name:{width}}  {p.title}")
        if p.expect:
            print(f"{'':{width}}  {p.expect}")
    print("\nTrain one:  layerline train NAME")
