"""`layerline resume RUN_DIR`."""

from __future__ import annotations

import argparse
from pathlib import Path

from layerline import api
from layerline.cli.components import settings_below
from layerline.cli.flags import flag_names
from layerline.cli.parser import Parser
from layerline.cli.training import add_training, carry_out, prepare, processes
from layerline.errors import Stopped
from layerline.reporting.run_folder import RunFolder
from layerline.run import Run
from layerline.runtime.stop import Terminated
from layerline.stream_run import StreamRun
from layerline.team import begun_with


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A run's folder; its settings stay as they are."""
    parser.add_argument("run_dir", metavar="RUN_DIR", help="The folder of the run.")
    add_training(parser)
    if isinstance(parser, Parser):
        parser.elsewhere = {
            flag: f"a run's settings stay as they were, {flag} too"
            for root in (Run, StreamRun)
            for path in settings_below(root)
            for flag in flag_names(path, root)
        }


def run(arguments: argparse.Namespace) -> None:
    """Go on and report."""
    folder = RunFolder.open(Path(arguments.run_dir))
    team = processes(folder.run(), arguments, begun_with(folder))
    try:
        given = [prepare(folder.run(), arguments)]  # handed on, not kept: a process may need but a part of it
    except Terminated:
        raise Stopped(
            "terminated before training went on", exit_status=75, hint=f"go on with: layerline resume {folder.path}"
        ) from None
    carry_out(
        lambda listener, stop: api.resume(
            folder.path,
            data=given.pop(),
            data_dir=arguments.data_dir,
            listener=listener,
            stop=stop,
            tensorboard=arguments.tensorboard,
            # one by one: a call with ** keeps what it was given, all the images too, until it returns
            processes=team["processes"],
            restarts=team["restarts"],
            show=team["show"],
            engine=team["engine"],
        ),
        folder.run(),
        arguments,
    )
