"""A line that everything takes a while to pass: a distant node, tried on one machine.

Problem: kernels without `netem` cannot delay packets. Solution: what has arrived is held back for `delay` seconds, by a
thread of its own. The sender waits for nobody and as much as fits may be under way, as on a long wire; order is kept.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from threading import Condition, Thread
from typing import final

_IDLE_SECONDS = 1.0
"""Between two looks at an empty line."""


@final
class DelayLine:
    """Calls what was put in, `delay` seconds later, one after the other. What is called may not raise."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._line: deque[tuple[float, Callable[[], None]]] = deque()
        self._open = True
        self._changed = Condition()
        Thread(target=self._pass, name="delay", daemon=True).start()

    def put(self, arrive: Callable[[], None]) -> None:
        """Call it later; does not wait."""
        with self._changed:
            self._line.append((time.monotonic() + self._delay, arrive))
            self._changed.notify()

    def close(self) -> None:
        """What is under way never arrives."""
        with self._changed:
            self._open = False
            self._changed.notify()

    def _pass(self) -> None:
        while True:
            with self._changed:
                while self._open and (left := self._left()) != 0:
                    self._changed.wait(_IDLE_SECONDS if left is None else left)
                if not self._open:
                    return
                _, arrive = self._line.popleft()
            arrive()

    def _left(self) -> float | None:
        """Seconds until the next arrives; None: nothing is under way."""
        return max(0.0, self._line[0][0] - time.monotonic()) if self._line else None
