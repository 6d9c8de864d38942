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
from layerline.cli.components import settings_below
from layerline.cli.flags import flag_names
from layerline.errors import LayerlineError, UsageError
from layerline.presets.presets import PRESETS
from layerline.run import Run
from layerline.runs import family
from layerline.settings import Settings
from layerline.stream_run import StreamRun


def kind_of_start(start: str, settings: dict[str, Any]) -> str | None:
    """The `kind` of a preset, or of the settings of a file: what they say, or what the preset they name says.

    UsageError where the two are of different families.
    """
    name = str(settings.get("preset", start))
    of_preset = {each.name: each.settings.get("kind") for each in PRESETS}
    kind: str | None = settings.get("kind", of_preset.get(name))
    if name in of_preset and kind != of_preset[name]:
        what = {None: "trains in chapters or side by side", "stream": "trains in a stream"}
        raise UsageError(
            f"{start} is of kind '{kind}', but the preset {name} {what.get(of_preset[name], '')}",
            hint="name a preset of the same family, or leave out kind",
        )
    return kind


def flags_elsewhere(root: type[Settings]) -> dict[str, str]:
    """Flags that only runs of the other family have, and what to say where somebody gives one."""
    other, what, such = (
        (Run, "train in chapters or side by side", "digits")
        if root is StreamRun
        else (StreamRun, "train in a stream", "backprop-cifar10")
    )
    own = {flag for path in settings_below(root) for flag in flag_names(path, root)}
    theirs = [flag for path in settings_below(other) for flag in flag_names(path, other)]
    return {flag: f"{flag} is for runs that {what}, such as {such}" for flag in theirs if flag not in own}


def family_of(words: Sequence[str]) -> type[Settings]:
    """The class of settings for a command line, by the preset or TOML file it starts from. A Run where there is none.

    Which words are values of flags is known only when the flags are, and they are the family's: `--dataset digits
    dgl-cifar10` names a data set first. So a word after a flag counts only where no other word does. What is wrong
    with a file is told when it is read for good.
    """
    after_flag = [at > 0 and words[at - 1].startswith("--") and "=" not in words[at - 1] for at in range(len(words))]
    for later in (False, True):
        for word, after in zip(words, after_flag, strict=True):
            if after != later:
                continue
            if word in {each.name for each in PRESETS}:
                return family({"kind": kind_of_start(word, {})}, word)
            if not word.startswith("-") and Path(word).is_file():
                with suppress(LayerlineError):
                    return family({"kind": kind_of_start(word, read_toml(word))}, word)
    return family({}, "")
