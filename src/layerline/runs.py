"""Which family a run is of: `kind = "stream"` in its TOML, or none for training in chapters or side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from layerline.base_run import read_toml
from layerline.errors import UsageError, did_you_mean
from layerline.run import Run
from layerline.stream_run import StreamRun

AnyRun = Run | StreamRun
Family = type[Run] | type[StreamRun]


def family(settings: dict[str, Any], source: str) -> Family:
    """The class that describes these settings. UsageError for a kind that is none."""
    kind = settings.get("kind")
    if kind not in (None, "stream"):
        raise UsageError(f"{source}: there is no kind '{kind}' of runs{did_you_mean(str(kind), ['stream'])}")
    return StreamRun if kind == "stream" else Run


def from_toml(path: str | Path) -> AnyRun:
    """The run in a TOML file, of whichever family. UsageError if it is none."""
    settings = read_toml(path)
    return family(settings, str(path)).from_dict(settings, str(path))
