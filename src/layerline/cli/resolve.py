"""From preset, files and flags to one Run: flag over file over preset.

    preset  ◄─ RUN.toml (names its preset, or lies over the defaults)  ◄─ --config FILE.toml  ◄─ flags

How one table lies over another is told in `layers`. What comes out is validated once, as a whole; a flag that would
change nothing in it is an error, never silently ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from layerline.base_run import read_toml
from layerline.cli.components import Table
from layerline.cli.families import kind_of_start
from layerline.cli.flags import flag_names, nested
from layerline.cli.layers import Layer
from layerline.errors import UsageError, did_you_mean
from layerline.presets.presets import PRESETS, preset
from layerline.run import Run
from layerline.runs import AnyRun, Family, family
from layerline.stream_run import StreamRun

_CUSTOM = "custom"  # the name of a run that started from no preset

# Which readouts can read what an objective trains; the first is taken where nobody names one.
_READABLE = {
    "forward-forward": ("goodness", "softmax"),
    "local-cross-entropy": ("all-heads", "last-head", "softmax"),
    "backprop": ("last-head",),
}


def resolve(
    start: str,
    config: str | Path | None = None,
    flags: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = lambda note: None,
) -> AnyRun:
    """The run of a preset or TOML file, a TOML file over it, and flags (by path) over both.

    `say` is told what was decided without being asked for. UsageError for names that do not exist, settings that belong
    to a component that is not chosen, and what no Run can be.
    """
    name, root, layers = _start(start)
    if config is not None:
        layers.append(_config(Path(config), name, root))
    if flags:
        layers.append(Layer(nested(flags, root), "", is_flags=True, root=root))
    below = root().to_dict() if name == _CUSTOM else preset(name).run.to_dict()
    settings = below
    for layer in layers:
        if layer.settings.get("nodes", settings["nodes"]) != settings["nodes"]:
            settings = _without_shares(settings, say)
        settings = layer.over(settings)
    if root is Run and not any(layer.names("readout") for layer in layers):
        settings = _with_natural_readout(settings, below, say)
    settings["preset"] = name
    files = [layer.source for layer in layers if layer.source]
    run = root.from_dict(settings, files[-1] if files else f"preset {name}")
    _refuse_unused(run, flags or {})
    return run


def _start(start: str) -> tuple[str, Family, list[Layer]]:
    """The preset's name, the family of its runs and the file over it, for a preset's name or a TOML file."""
    path = Path(start)
    if start not in (p.name for p in PRESETS) and (path.suffix == ".toml" or path.is_file()):
        settings = read_toml(path)
        root = family({"kind": kind_of_start(start, settings)}, start)
        name = settings.pop("preset", _CUSTOM)
        return _known(name, path), root, [Layer(settings, start, root=root)]
    if path.is_dir() and (path / "config.toml").is_file():
        raise UsageError(f"{start} is the folder of a run", hint=f"train it anew: layerline train {path}/config.toml")
    name = preset(start).name
    return name, family({"kind": kind_of_start(name, {})}, name), []


def _config(path: Path, name: str, root: Family) -> Layer:
    """The layer of --config, which lies over any preset."""
    settings = read_toml(path)
    if "kind" in settings and family(settings, str(path)) is not root:
        raise UsageError(
            f"{path} describes a {settings['kind']}, and {name} is none",
            hint=f"lay it over a preset of its family, or train it: layerline train {path}",
        )
    own = _known(settings.pop("preset", name), path)
    if own not in (name, _CUSTOM):
        raise UsageError(f"{path} lies over the preset {own}, not {name}", hint=f"train it: layerline train {path}")
    return Layer(settings, str(path), root=root)


def _known(name: Any, path: Path) -> str:
    known = [p.name for p in PRESETS]
    if name != _CUSTOM and name not in known:
        raise UsageError(f"{path}: there is no preset '{name}'{did_you_mean(str(name), known)}")
    return str(name)


def _with_natural_readout(settings: Table, below: Table, say: Callable[[str], None]) -> Table:
    """Another objective and no word about the readout: the one that can read it."""
    objective, readout = settings["objective"]["kind"], settings["readout"]["kind"]
    readable = _READABLE.get(objective, (readout,))
    if objective == below["objective"]["kind"] or readout in readable:
        return settings
    say(f"readout {readable[0]}, as {objective} has no {readout} to read (--readout chooses)")
    return settings | {"readout": {"kind": readable[0]}}


def _without_shares(settings: Table, say: Callable[[str], None]) -> Table:
    """For another number of nodes: without what was said of each of these."""
    kept = {name: value for name, value in settings.items() if name not in ("speeds", "owns") or not value}
    if settings.get("schedule", {}).get("owns"):
        kept["schedule"] = {name: value for name, value in settings["schedule"].items() if name != "owns"}
    if kept != settings:
        say(f"speeds and shares of {settings['nodes']} nodes are left out (--speeds and --owns give others)")
    return kept


def _refuse_unused(run: AnyRun, flags: Mapping[str, Any]) -> None:
    """UsageError for a flag that would change nothing in this run."""
    nothing = _unused(run) if isinstance(run, Run) else _unused_in_stream(run)
    for path in flags:
        for unused, why in nothing.items():
            if path == unused or path.startswith(unused + "."):
                raise UsageError(f"{flag_names(path, type(run))[0]} would change nothing: {why}", hint="leave it out")


def _unused(run: Run) -> dict[str, str]:
    """Parts of a Run that it does not use, and why."""
    unused = {}
    if not run.objective.needs_negatives:
        unused["negatives"] = f"the {run.objective.kind} objective needs no negatives"
        unused["labels"] = f"the {run.objective.kind} objective needs no label in the input"
    elif not run.writes_labels:
        unused["labels"] = f"{run.negatives.kind} negatives know no labels"
    if run.readout.kind != "softmax" and not run.has_judge:
        unused["optimizer.head_lr"] = f"the {run.readout.kind} readout has no softmax head"
    if run.nodes == 1:
        unused["speeds"] = unused["send_optimizer_state"] = "there is one node"
    if not run.augment.shift:
        unused["augment.fill"] = "nothing is shifted"
    if not getattr(run.schedule, "average", False):
        unused["schedule.mean"] = "nothing is averaged"
    if not run.judged:
        why = f"{run.negatives.kind} negatives are not ranked" if run.objective.needs_negatives else "there are none"
        unused["schedule.ranking"] = unused["schedule.delay"] = why
    return unused


def _unused_in_stream(run: StreamRun) -> dict[str, str]:
    """Parts of a StreamRun that it does not use, and why."""
    unused = {}
    if run.reach == "all":
        unused["head"] = "with --reach all no block learns from a head"
    if run.nodes == 1:
        unused["speeds"] = unused["codec"] = unused["window"] = "there is one node"
    else:
        unused["codec.first"] = "what travels in a stream is no difference from anything"
        unused["eval_every"] = "over nodes a stream looks at held-out data at its end only"
    if not run.augment.shift:
        unused["augment.fill"] = "nothing is shifted"
    if run.reads_text:
        unused["augment"] = unused["standardise"] = "a text has no pixels"
        unused["validation"] = "a text is judged on its end in any case"
    else:
        unused["tokens"] = f"a {run.network.kind} network reads no text"
    return unused
