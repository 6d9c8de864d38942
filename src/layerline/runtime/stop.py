"""Stopping on request: a signal sets a flag, the run saves itself between two minibatches and ends.

    Ctrl-C (SIGINT)   exit status 130
    SIGTERM           exit status  75, stopped but resumable

A second Ctrl-C does not wait. Before there is anything to save, Ctrl-C and SIGTERM end the process at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

TERMINATED = 143  # as a shell reports SIGTERM
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 75}


@dataclass
class Stop:
    """A request to stop; `exit_status` is None until there is one."""

    exit_status: int | None = None


class Terminated(BaseException):
    """SIGTERM where there is nothing to save: like KeyboardInterrupt, no error that anybody should catch by chance."""


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """SIGTERM raises `Terminated`, so that files are closed and the command line can say what happened."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():  # Python lets no other thread set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def on_signals() -> Iterator[Stop]:
    """A `Stop` that SIGINT and SIGTERM set, while the block runs. Main thread only."""
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and stop.exit_status is not None:
            raise KeyboardInterrupt
        stop.exit_status = STATUS[signal.Signals(number)]

    before = {number: signal.signal(number, handle) for number in STATUS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
