"""`layerline predict RUN_DIR IMAGE…`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from layerline import api
from layerline.blocks.tokens import TokenEncoder
from layerline.cli.output import add_format, print_json
from layerline.data.inputs import read_inputs
from layerline.errors import UsageError

_COLUMNS = 10  # up to so many classes each has a column; beyond, only the best are shown
_BEST = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A model and what to ask it."""
    parser.add_argument("run_dir", metavar="RUN_DIR", help="The folder of a finished run, or its model folder.")
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="An image (.png, .jpg …), a folder of images, arrays (.npy, .npz), or a .csv with one example per line.",
    )
    parser.add_argument("--resize", action="store_true", help="Bring images to the size the model was trained on.")
    add_format(parser)


def run(arguments: argparse.Namespace) -> None:
    """Print the class and the scores of everything that was named."""
    model = api.load(arguments.run_dir)
    encoder = model.encoder
    if isinstance(encoder, TokenEncoder):
        raise UsageError(
            f"the model of {arguments.run_dir} reads text, and has no classes to tell images apart",
            hint=f"measure it: layerline evaluate {arguments.run_dir}",
        )
    files = [Path(p) for p in arguments.images]
    inputs = read_inputs(files, encoder.shape, images=encoder.images, resize=arguments.resize)
    scores = [[float(score) for score in row] for row in model.scores(inputs.examples).tolist()]
    found = [model.classes[max(range(len(row)), key=row.__getitem__)] for row in scores]
    if arguments.format == "json":
        readout = next(iter(model.readout_names))
        rows = zip(inputs.names, found, scores, strict=True)
        predictions = [
            {"image": image, "class": name, "scores": dict(zip(model.classes, row, strict=True))}
            for image, name, row in rows
        ]
        print_json(
            {
                "run_dir": str(arguments.run_dir),
                "readout": readout,
                "predictions": predictions,
            }
        )
    else:
        _print_table(inputs.names, found, scores, model.classes)


def _print_table(
    images: Sequence[str], found: Sequence[str], scores: list[list[float]], classes: Sequence[str]
) -> None:
    if len(classes) <= _COLUMNS:
        head = ["image", "class", *(f"score of {name}" if name == classes[0] else name for name in classes)]
        cells = [[f"{score:.4g}" for score in row] for row in scores]
    else:
        head = ["image", "class", "best scores"]
        cells = [[_best(row, classes)] for row in scores]
    lines = [head, *([image, name, *row] for image, name, row in zip(images, found, cells, strict=True))]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        left = [cell.ljust(width) for cell, width in zip(line[:2], widths[:2], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(line[2:], widths[2:], strict=True)]
        print("  ".join(left + right).rstrip())


def _best(row: list[float], classes: Sequence[str]) -> str:
    order = sorted(range(len(row)), key=row.__getitem__, reverse=True)[:_BEST]
    return ", ".join(f"{classes[at]} {row[at]:.4g}" for at in order)
