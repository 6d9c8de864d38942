"""`layerline evaluate RUN_DIR`."""

from __future__ import annotations

import argparse
from pathlib import Path

from layerline import api
from layerline.cli.output import add_data_dir, add_format, print_json
from layerline.cli.training import load_data
from layerline.runs import from_toml
from layerline.runtime.saved import model_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A run's folder and a data set."""
    parser.add_argument("run_dir", metavar="RUN_DIR", help="The folder of a finished run.")
    parser.add_argument(
        "--dataset", metavar="NAME", help="Another set than the run's: a known one, an .npz file, a folder."
    )
    add_data_dir(parser)
    add_format(parser)


def run(arguments: argparse.Namespace) -> None:
    """Measure every readout and print."""
    settings = from_toml(model_folder(Path(arguments.run_dir)) / "config.toml")
    data = None if settings.has_own_data else load_data(settings, arguments, arguments.dataset)
    values = api.evaluate(arguments.run_dir, dataset=arguments.dataset, data=data, data_dir=arguments.data_dir)
    if arguments.format == "json":
        print_json(values)
        return
    what = "windows of the validation split" if "bits_per_character" in values else "test examples"
    print(f"{values['dataset']}, {values['examples']:,} {what}")
    for readout, bits in values.get("bits_per_character", {}).items():
        print(f"  {readout}: {bits:.4f} bits per character")
    width = max(map(len, values["readouts"]))
    for number, (readout, accuracy) in enumerate(values["readouts"].items()):
        print(f"  {readout:{width}}  {100 * accuracy:6.2f} %{'  (the readout of the run)' if number == 0 else ''}")
