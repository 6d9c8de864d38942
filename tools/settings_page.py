"""The reference pages of all settings, from the settings themselves.

A page written by hand is wrong after the first change of a default. This writes `docs/reference/settings.md` and
`stream-settings.md` from the fields of the Run and the StreamRun: name in TOML, flag, what it may be, default, and the
docstring. A test holds the pages to it.

    python tools/settings_page.py            write the pages
    python tools/settings_page.py --check    exit status 1 if one is out of date
"""

from __future__ import annotations

import inspect
import json
import sys
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from layerline.base_run import BaseRun
from layerline.cli.components import Setting, settings_below
from layerline.cli.flags import flag_names
from layerline.run import Run
from layerline.settings import Settings
from layerline.stream_run import StreamRun

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"

_HOW = """\
What a flag leaves out the file says (`layerline train run.toml`, `--config more.toml`), then the preset, then the
default here.

- A dot is a table: `{dotted}` is `{last}` in `[{table}]`. The short flag, where there is one, and the whole path
  (`--{dotted}`) mean the same.
- A component is chosen by its kind: `--{table} {kind}`, or `kind = "{kind}"` in `[{table}]`. Its settings belong to
  that kind.
- `left out` is `none` on the command line, and no line in TOML.

(This page is written by `python tools/settings_page.py`.)
"""

_CHAPTERS = """\
# Settings

Everything that decides the result of a training in chapters, or of all blocks side by side, as a name in TOML, a
flag of `layerline train` and a field of `Run`. Streams have [their own](stream-settings.md).
"""

_STREAMS = """\
# Settings of streams

Everything that decides the result of a training in a stream (DGL, interlocking backprop, backprop), as a name in
TOML, a flag of `layerline train` and a field of `StreamRun`. A file of such a run says `kind = "stream"`. Training in
chapters has [other settings](settings.md).
"""

PAGES: dict[str, tuple[type[BaseRun], str]] = {
    "settings.md": (
        Run,
        _CHAPTERS + _HOW.format(dotted="objective.loss.beta", last="beta", table="objective.loss", kind="symba"),
    ),
    "stream-settings.md": (
        StreamRun,
        _STREAMS + _HOW.format(dotted="network.depth", last="depth", table="network", kind="resnet"),
    ),
}
"""The family of runs and the beginning of every page."""


def page(name: str) -> str:
    """A whole page."""
    root, intro = PAGES[name]
    groups: dict[str, list[list[Setting]]] = {}
    for path, settings in settings_below(root).items():
        top = path.partition(".")[0]
        inside = "." in path or settings[0].kinds
        groups.setdefault(top if inside else "", []).append(settings)
    parts = [intro, *_training(groups.pop(""), root)]
    for top, group in groups.items():
        parts += ["", f"## {top}", "", _said(root.model_fields[top].description)]
        for settings in group:
            if settings[0].kinds:
                parts += ["", *_component(settings[0], root)]
        rows = [row for settings in group if not settings[0].kinds for row in _rows(settings, root)]
        if rows:
            parts += ["", *_table(("setting", "flag", "of kind", "values", "default", "what"), rows)]
    return "\n".join(parts) + "\n"


def main(words: list[str]) -> int:
    """Write the pages, or check them."""
    texts = {REFERENCE / name: page(name) for name in PAGES}
    if words == ["--check"]:
        old = [path.name for path, text in texts.items() if not path.exists() or path.read_text("utf-8") != text]
        print(f"{' and '.join(old)}: out of date: python tools/settings_page.py" if old else "settings: up to date")
        return 1 if old else 0
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    return 0


def _training(group: Iterable[list[Setting]], root: type[BaseRun]) -> Iterator[str]:
    name = root.model_fields["preset"]
    rows: list[tuple[str, ...]] = [
        ("`preset`", "the first word", "text", _shown(name.default), _said(name.description))
    ]
    for settings in group:
        rows += [(row[0], row[1], *row[3:]) for row in _rows(settings, root)]
    yield from ("## Training", "", *_table(("setting", "flag", "values", "default", "what"), rows))


def _component(setting: Setting, root: type[BaseRun]) -> Iterator[str]:
    """The kinds there are, each with the first paragraph of its docstring."""
    default = getattr(setting.field.default, "kind", None)
    yield f"`{setting.path}` is one of (`{flag_names(setting.path, root)[0]}`):"
    yield ""
    for kind, model in setting.kinds.items():
        first = (inspect.getdoc(model) or "").partition("\n\n")[0]
        yield f"- `{kind}`{' (default)' if kind == default else ''}: {_said(first)}"


def _rows(settings: Iterable[Setting], root: type[BaseRun]) -> Iterator[tuple[str, ...]]:
    """One path's rows; kinds that say the same share one."""
    owners: dict[tuple[str, ...], dict[str, None]] = {}
    for setting in settings:
        what = (
            _values(setting.field.annotation, setting.field.metadata),
            _shown(setting.field.get_default(call_default_factory=True)),
            setting.help,
        )
        owners.setdefault(what, {}).update({setting.owner: None} if setting.owner else {})
    for said, kinds in owners.items():
        yield (f"`{setting.path}`", f"`{flag_names(setting.path, root)[0]}`", ", ".join(kinds), *said)


def _values(annotation: Any, bounds: Iterable[Any]) -> str:
    """What a setting may be, in words: `number > 0`."""
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [_values(part, bounds) for part in get_args(annotation) if part is not type(None)]
        return " or ".join([*parts, "left out"] if type(None) in get_args(annotation) else parts)
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(annotation))
    if get_origin(annotation) is Annotated:
        kind, *fields = get_args(annotation)
        return _values(kind, [bound for field in fields for bound in field.metadata])
    if get_origin(annotation) is tuple:
        return "list of " + _values(get_args(annotation)[0], ()).replace("number", "numbers")
    words = {int: "whole number", float: "number", bool: "yes or no", str: "text"}
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    limits = [
        f"{sign} {getattr(bound, name):g}" for bound in bounds for name, sign in signs.items() if hasattr(bound, name)
    ]
    return f"{words.get(annotation, str(annotation))} {', '.join(limits)}".strip()


def _shown(default: Any) -> str:
    if default is None:
        return "left out"
    assert not isinstance(default, Settings)
    return f"`{json.dumps(default)}`"


def _said(text: str | None) -> str:
    return " ".join((text or "").split())


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    rows = list(rows)
    used = [at for at in range(len(head)) if any(row[at] for row in rows)]
    yield _line(head[at] for at in used)
    yield "|" + "---|" * len(used)
    for row in rows:
        yield _line(row[at].replace("|", "\\|") for at in used)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
