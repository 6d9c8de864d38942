"""Which family of runs a command line is about: its flags are that family's.

layerline train digits --help           trained in chapters or side by side: the flags of a Run
layerline train dgl-cifar10 --help      trained in a stream: those of a StreamRun
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from layerline.base_run import read_toml
from layerline.errors import LayerlineError
from layerline.presets.presets import PRESETS
from layerline.runs import family
from layerline.settings import Settings


def kind_of_start(start: str, settings: dict[str, Any]) -> str | None:
    """The `kind` of a preset, or of the settings of a file: what they say, or what the preset they name says."""
    name = settings.get("preset", start)
    of_preset = {each.name: each.settings.get("kind") for each in PRESETS}
    kind: str | None = settings.get("kind", of_preset.get(name))
    return kind


def family_of(words: Sequence[str]) -> type[Settings]:
    """The class of settings for a command line, by the first preset or TOML file in it. A Run where there is none.

    What is wrong with a file is told when it is read for good.
    """
    for word in words:
        if word in {each.name for each in PRESETS}:
            return family({"kind": kind_of_start(word, {})}, word)
        if word.endswith(".toml") and Path(word).is_file():
            with suppress(LayerlineError):
                return family({"kind": kind_of_start(word, read_toml(word))}, word)
    return family({}, "")
