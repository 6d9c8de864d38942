"""Times for people."""

from __future__ import annotations


def clock(seconds: float) -> str:
    """0:41, 12:05 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def duration(seconds: float) -> str:
    """`41.2 s` or `12.5 min`."""
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
