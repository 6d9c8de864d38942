"""What a run over nodes says of their time, in `result.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def account(seconds: float, busy: Sequence[float], sent: int, processes: int) -> dict[str, Any]:
    """From the time from beginning to end, the seconds each node worked, and the bytes they sent.

    Nodes that one process carries out take turns, so the whole is as many processes.
    """
    return {
        "processes": processes,
        "utilisation": round(sum(busy) / (processes * seconds), 4) if seconds else 1.0,
        "speedup": round(sum(busy) / seconds, 4) if seconds else 1.0,
        "busy_seconds": [round(each, 3) for each in busy],
        "idle_seconds": [round(max(0.0, seconds - each), 3) for each in busy],
        "bytes_sent": sent,
    }
