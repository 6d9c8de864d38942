"""Processes of one run, started by hand with the variables that torchrun sets.

Each is a real process, forked from a server that has imported PyTorch already: that takes most of the time otherwise.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_PATIENCE = 90.0

SMALL = [
    *["train", "digits", "--order", "chapters", "--schedule", "all-layers", "--nodes", "2", "--epochs", "2"],
    *["--widths", "16,16", "--batch-size", "256", "--threads", "1"],
]
"""A run of two nodes, of a second."""


class Ended(NamedTuple):
    """How a process ended. `status` None: it had to be killed."""

    status: int | None
    out: str
    err: str


class Member(NamedTuple):
    """A process to start: its words after `layerline`, and its folder."""

    words: Sequence[str]
    folder: Path


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def members(
    *starts: Member,
    world: int | None = None,
    port: int | None = None,
    first: int = 0,
    join: float = 60.0,
    served: bool = False,
) -> list[Ended]:
    """Start them as the ranks from `first` on, and wait for all. None is left over.

    `served`: somebody serves the store at `port`, as torchrun's agent does.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["layerline.api", "layerline.baselines.job", "layerline.cli.commands.train"])
    common = {
        "WORLD_SIZE": str(world or len(starts)),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port or free_port()),
        "TORCHELASTIC_RUN_ID": "by-hand",
        "LAYERLINE_JOIN": str(join),
        "TORCHELASTIC_USE_AGENT_STORE": str(served),
    }
    processes, files = [], []
    for rank, start in enumerate(starts, first):
        file = start.folder / f"said-by-{rank}"
        variables = common | {"RANK": str(rank)}
        processes.append(context.Process(target=_run, args=(list(start.words), str(start.folder), variables, file)))
        files.append(file)
        processes[-1].start()
    until = time.monotonic() + _PATIENCE
    ended = []
    for process, file in zip(processes, files, strict=True):
        process.join(max(0.0, until - time.monotonic()))
        status = process.exitcode
        if status is None:
            process.kill()
            process.join()
        ended.append(Ended(status, file.with_suffix(".out").read_text(), file.with_suffix(".err").read_text()))
    return ended


def _run(words: list[str], folder: str, variables: dict[str, str], file: Path) -> None:
    """In the process."""
    for descriptor, suffix in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(file.with_suffix(suffix), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.environ.update(variables)
    os.chdir(folder)
    from layerline.cli.main import main

    sys.exit(main(words))
