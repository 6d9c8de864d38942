"""Stopping on request: a signal sets a flag, the run saves itself between two minibatches and ends.

    Ctrl-C (SIGINT)   exit status 130
    SIGTERM           exit status  75, stopped but resumable

A second Ctrl-C does not wait. Before there is anything to save, Ctrl-C and SIGTERM end the process at once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

INTERRUPTED, TERMINATED = 130, 143  # as a shell reports SIGINT and SIGTERM
STATUS = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: 75}


@dataclass
class Stop:
    """A request to stop; `exit_status` is None until there is one."""

    exit_status: int | None = None


class Terminated(BaseException):
    """SIGTERM where there is nothing to save: like KeyboardInterrupt, no error that anybody should catch by chance."""


@contextmanager
def handling(numbers: Iterable[int], handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Signals call `handle` while the block runs; in the main thread, else nothing calls it."""
    if threading.current_thread() is not threading.main_thread():  # Python lets no other thread set handlers
        yield
        return
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ending_at_once(*, silent: bool) -> Iterator[None]:
    """SIGINT and SIGTERM end the process where it stands: for imports. An exception that a handler raises in the middle
    of PyTorch's may come up in C++, where nobody catches it, and abort the process with a page of its frames."""

    def handle(number: int, frame: FrameType | None) -> None:
        if not silent:
            os.write(2, b"\ninterrupted\n" if number == signal.SIGINT else b"\nterminated\n")
        os._exit(INTERRUPTED if number == signal.SIGINT else TERMINATED)

    with handling(STATUS, handle):
        yield


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """SIGTERM raises `Terminated`, so that files are closed and the command line can say what happened."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise Terminated

    with handling([signal.SIGTERM], handle):
        yield


@contextmanager
def on_signals() -> Iterator[Stop]:
    """A `Stop` that SIGINT and SIGTERM set, while the block runs; in the main thread, else nothing sets it."""
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and stop.exit_status is not None:
            raise KeyboardInterrupt
        stop.exit_status = STATUS[signal.Signals(number)]

    with handling(STATUS, handle):
        yield stop
