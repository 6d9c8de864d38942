"""`layerline train PRESET|RUN.toml`."""

from __future__ import annotations

import argparse
import os
from contextlib import suppress
from pathlib import Path

from layerline import api
from layerline.cli.families import family_of, flags_elsewhere
from layerline.cli.flags import add_settings, settings_of
from layerline.cli.output import note
from layerline.cli.parser import Parser
from layerline.cli.resolve import resolve
from layerline.cli.training import add_training, carry_out, prepare, processes
from layerline.errors import UsageError
from layerline.reporting.run_folder import default_out_dir
from layerline.runtime.members import Membership
from layerline.runtime.stop import Terminated


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A start, a file, and a flag for every setting."""
    parser.add_argument("start", metavar="PRESET|RUN.toml", help="A name that `layerline presets` lists, or a file.")
    parser.add_argument("--config", metavar="FILE.toml", help="Settings that lie over the preset and below the flags.")
    parser.add_argument(
        "--out-dir", metavar="FOLDER", help="Where the run goes; else runs/PRESET/TIME. Never overwritten."
    )
    add_training(parser)
    root = family_of(parser.words if isinstance(parser, Parser) else ())
    add_settings(parser, root)
    if isinstance(parser, Parser):
        parser.elsewhere = flags_elsewhere(root)


def run(arguments: argparse.Namespace) -> None:
    """Train and report."""
    settings = resolve(arguments.start, arguments.config, settings_of(arguments), note)
    if Membership.of_environment() and not arguments.out_dir:
        raise UsageError("processes that work together need one folder", hint="name it: --out-dir FOLDER")
    team = processes(settings, arguments)
    try:
        given = [prepare(settings, arguments)]  # handed on, not kept: a process may need but a part of it
    except Terminated:
        raise Terminated("terminated before training began; there is nothing to resume") from None
    out_dir = Path(arguments.out_dir).expanduser() if arguments.out_dir else default_out_dir(settings.preset)
    try:
        carry_out(
            lambda listener, stop: api.train(
                settings,
                data=given.pop(),
                data_dir=arguments.data_dir,
                out_dir=out_dir,
                listener=listener,
                stop=stop,
                tensorboard=arguments.tensorboard,
                # one by one: a call with ** keeps what it was given, all the images too, until it returns
                processes=team["processes"],
                restarts=team["restarts"],
                show=team["show"],
                engine=team["engine"],
            ),
            settings,
            arguments,
        )
    finally:
        if not arguments.out_dir:
            with suppress(OSError):  # there is a run in it
                os.removedirs(out_dir)
