"""Stopping on request: a signal sets a flag, the run saves itself between two minibatches and ends.

    Ctrl-C (SIGINT)   exit status 130
    SIGTERM           exit status  75, stopped but resumable

A second Ctrl-C does not wait.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 75}


@dataclass
class Stop:
    """A request to stop; `exit_status` is None until there is one."""

    exit_status: int | None = None


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
