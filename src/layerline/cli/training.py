"""What `train` and `resume` share: their flags, the data, the display around the training, and the result after it."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from rich.console import Console

from layerline.api import Result
from layerline.cli.output import Downloads, add_data_dir, add_format, note, print_json
from layerline.data.dataset import Dataset
from layerline.data.text_set import AnySet
from layerline.errors import Stopped, UsageError
from layerline.events import Listener
from layerline.reporting.closing import closing
from layerline.reporting.console import Display
from layerline.reporting.environment import usable_cores
from layerline.reporting.nodes import NodesDisplay
from layerline.reporting.stream_nodes import StreamDisplay
from layerline.reporting.tensorboard import require_tensorboard
from layerline.run import Run
from layerline.runs import AnyRun
from layerline.runtime.members import Board, Membership, join_seconds, refuse_idle
from layerline.runtime.stop import Stop, on_signals
from layerline.schedules.timing import Async
from layerline.sets import load_set
from layerline.stream_run import StreamRun
from layerline.team import Engine, check_engine


def add_training(parser: argparse.ArgumentParser) -> None:
    """The flags that do not change the result."""
    add_data_dir(parser)
    add_format(parser)
    parser.add_argument("--quiet", action="store_true", help="No progress on standard error.")
    parser.add_argument("--processes", type=count, metavar="P", help=(
        "Processes that carry out the nodes of a schedule, on this machine; else one for every node."
    ))  # fmt: skip
    parser.add_argument("--restarts", type=count, default=10, metavar="N", help=(
        "How often processes are started again, from the finished slots, after one was lost. Default 10."
    ))  # fmt: skip
    parser.add_argument("--engine", choices=("torch", "flower"), help=(
        "What carries a federated run: processes that send each other blocks, or Flower. Default torch, or as it was "
        "begun."
    ))  # fmt: skip
    parser.add_argument("--tensorboard", action="store_true", help="Write the numbers for TensorBoard, too.")


def count(word: str) -> int:
    """A number of processes or restarts, for argparse."""
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"'{word}' is no count")
    return int(word)


def processes(run: AnyRun, arguments: argparse.Namespace, begun: Engine = "torch") -> dict[str, Any]:
    """How many processes carry it out: as many as it has nodes, where nobody says otherwise; and with which engine.

    `begun`: the engine that the run was begun with.
    """
    engine = arguments.engine or begun
    check_engine(run, engine)
    count = arguments.processes if arguments.processes is not None else run.nodes if run.is_planned else 1
    if count < 1:
        raise UsageError("a run needs at least one process, got --processes 0")
    member = Membership.of_environment()
    if member:  # before it meets the others, who find the same
        refuse_idle(member.world, run.nodes)
    elif engine == "torch" and arguments.processes is None and not arguments.quiet:
        _note_crowd(run, count, usable_cores())
    team = {"processes": count, "restarts": arguments.restarts, "show": not arguments.quiet}
    return team | {"engine": engine}


def _note_crowd(run: AnyRun, count: int, cores: int) -> None:
    """Say so where nobody chose a number and there are more processes than cores, each with PyTorch in its memory."""
    free = isinstance(run, StreamRun) and (isinstance(run.timing, Async) or run.method is not None)
    if count > cores and not free:  # blocks that run freely and PyTorch's methods want a process for every node
        note(f"{count} processes on {cores} cores: --processes {cores} takes less memory, for the same weights")


def load_data(run: AnyRun, arguments: argparse.Namespace, name: str | None = None) -> AnySet:
    """The run's data set (or another), downloaded if need be and allowed: while Ctrl-C still ends at once.

    It bears the name it was called by, a path for instance: by that name it is found again.
    """
    data = load_set(
        run,
        name,
        data_dir=arguments.data_dir,
        download=not arguments.no_download,
        progress=Downloads(quiet=getattr(arguments, "quiet", False)),
    )
    return replace(data, name=name or run.dataset) if isinstance(data, Dataset) else data


def prepare(run: AnyRun, arguments: argparse.Namespace) -> AnySet | None:
    """What may be missing, before a folder is made for the run: TensorBoard, if it is wanted, and the data.

    None where every node reads data of its own, which is for those that carry out nodes.
    """
    if arguments.tensorboard:
        require_tensorboard()
    if run.has_own_data:
        return None
    member = Membership.of_environment()
    with Board(member, join_seconds()).telling() if member else nullcontext():  # who has no data tells the others
        return load_data(run, arguments)


def carry_out(training: Callable[[Listener, Stop], Result], run: AnyRun, arguments: argparse.Namespace) -> None:
    """Train under the display, stopping on signals, and print the result. Commands to run next name the data folder."""
    data_dir: str | None = arguments.data_dir
    try:
        with on_signals() as stop, _display(run, quiet=arguments.quiet) as display:
            result = training(display, stop)
    except Stopped as stopped:
        if data_dir and stopped.hint:
            stopped.hint += f" --data-dir {shlex.quote(data_dir)}"
        raise
    member = Membership.of_environment()
    if member and member.launched:  # the launcher reports
        return
    if arguments.format == "json":
        print_json(result.values)
    elif not arguments.quiet:
        closing(result.values, console=Console(), data_dir=data_dir)


def _display(run: AnyRun, *, quiet: bool) -> Display | NodesDisplay:
    """What shows a run."""
    if not run.is_planned:
        return Display(quiet=quiet)
    return (NodesDisplay if isinstance(run, Run) else StreamDisplay)(quiet=quiet)
