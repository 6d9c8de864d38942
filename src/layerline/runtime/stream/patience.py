"""How long a worker that was asked to stop waits for the first node to say when.

Problem: the first node decides after which step all nodes save themselves and stop. Usually it is asked, too, and a
worker that gives up before its mark comes loses a snapshot. But it may never be asked: its machine goes on. Seconds
alone cannot tell the two apart, where a step takes as long. Solution: own steps count as well. When the first node is
asked it has begun no more than `lead` steps that this worker has not, and the mark comes with the next one:

    node 1   6  7  8  9 | asked: 10 ■
    node 2   6 | asked: 7  8  9  10 ■           lead 3
"""

from __future__ import annotations

import time

from layerline.errors import Stopped
from layerline.runtime.stop import Stop

SECONDS = 3.0
"""For the first node to be asked, too."""


class Patience:
    """Of a worker. `lead`: steps that the first node may have begun beyond this worker's last; 0: it is here, and
    there is nothing to wait for."""

    def __init__(self, stop: Stop, lead: int) -> None:
        self._stop, self._lead = stop, lead
        self._asked: float | None = None
        self._steps = 0

    def heed(self) -> None:
        """After a step that had no mark. Stopped where this process was asked to, and the first node was not."""
        if self._stop.exit_status is None or not self._lead:
            return
        if self._asked is None:
            self._asked = time.monotonic()
            return
        self._steps += 1
        late = self._steps > self._lead + 1  # it may have been asked a moment later
        if late and time.monotonic() - self._asked > SECONDS:
            raise Stopped("training was stopped", exit_status=self._stop.exit_status)
