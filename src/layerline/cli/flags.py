"""Flags for every setting of the Run.

    --epochs 20                              a setting
    --objective.loss.beta 12, --beta 12      a setting of a component; short where no other path ends in that name
    --objective.loss symba, --loss symba     a component, chosen by its kind
    --augment.flip, --flip, --no-flip        yes or no
    --network.widths 500,500                 a list
    --chapters none                          left out, where the Run allows it

A value is checked when it is read, so that the message can name the flag. Whether a flag fits the chosen components is
known only after files and presets are read: `resolve` looks at that.
"""

from __future__ import annotations

import argparse
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError

from layerline.cli.components import Setting, Table, run_type, settings_below
from layerline.errors import UsageError, did_you_mean
from layerline.settings import Settings

_FROM_PYTHON = ("network", "own")  # modules come from Python, not from a flag
_PREFIX = "setting:"  # of the settings' names in argparse's namespace


def kebab(name: str) -> str:
    """`batch_size` as flags write it."""
    return name.replace("_", "-")


def flag_names(path: str, root: type[Settings] | None = None) -> list[str]:
    """The flags of a setting of `root` (else the Run), the short one first: `["--beta", "--objective.loss.beta"]`."""
    last = path.rpartition(".")[2]
    unique = sum(other.rpartition(".")[2] == last for other in settings_below(root or run_type())) == 1
    return [f"--{kebab(name)}" for name in dict.fromkeys([last, path] if unique else [path])]


def add_settings(parser: argparse.ArgumentParser, root: type[Settings] | None = None) -> None:
    """One flag, or a pair, for every setting of `root` (else the Run); grouped by component in the help text."""
    groups: dict[str, argparse._ArgumentGroup] = {}
    root = root or run_type()
    for path, settings in settings_below(root).items():
        top = path.partition(".")[0] if "." in path or settings[0].kinds else "training"
        if top not in groups:
            groups[top] = parser.add_argument_group(top)
        _add(groups[top], path, settings, root)


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was set by flags, by path: `{"objective.loss": "symba", "objective.loss.alpha": 4.0}`."""
    given = vars(arguments)
    return {name.removeprefix(_PREFIX): value for name, value in given.items() if name.startswith(_PREFIX)}


def nested(flags: Mapping[str, Any], root: type[Settings] | None = None) -> Table:
    """`{"objective.loss": "symba", "epochs": 3}` as tables: a component's own value is its `kind`."""
    tables: Table = {}
    settings = settings_below(root or run_type())
    for path, value in flags.items():
        *parents, name = path.split(".")
        if path in settings and settings[path][0].kinds:
            parents, name = [*parents, name], "kind"
        table = tables
        for parent in parents:
            table = table.setdefault(parent, {})
        table[name] = value
    return tables


def _add(group: argparse._ArgumentGroup, path: str, settings: list[Setting], root: type[Settings]) -> None:
    setting = settings[0]
    names = flag_names(path, root)
    common: dict[str, Any] = {
        "dest": _PREFIX + path,
        "default": argparse.SUPPRESS,
        "help": _help(settings).replace("%", "%%"),
    }
    if _plain(setting.field.annotation) is bool:
        group.add_argument(*names, action=argparse.BooleanOptionalAction, **common)
    else:
        group.add_argument(*names, type=_reader(settings, names[0]), metavar=_metavar(settings), **common)


def _help(settings: list[Setting]) -> str:
    """What the kinds say of the setting: `(rms) Added to … (l2) Added to …`, named together where they say the same."""
    owners: dict[str, dict[str, None]] = {}
    for each in settings:
        owners.setdefault(each.help, {}).update({each.owner: None} if each.owner else {})
    return " ".join(f"({', '.join(names)}) {text}" if names else text for text, names in owners.items())


def _plain(annotation: Any) -> Any:
    """The annotation without "or None"."""
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        return parts[0] if len(parts) == 1 else annotation
    return annotation


def _optional(annotation: Any) -> bool:
    return type(None) in get_args(annotation)


def _choices(settings: list[Setting]) -> dict[str, Any]:
    """The words a flag takes and what they stand for, if they are a fixed few; all kinds' together."""
    found: dict[str, Any] = {}
    for setting in settings:
        annotation = _plain(setting.field.annotation)
        if setting.kinds:
            found |= {kind: kind for kind in setting.kinds if (setting.path, kind) != _FROM_PYTHON}
        elif get_origin(annotation) is Literal:
            found |= {str(value): value for value in get_args(annotation)}
        else:
            return {}
    return found


def _metavar(settings: list[Setting]) -> str:
    choices, setting = _choices(settings), settings[0]
    annotation = _plain(setting.field.annotation)
    if choices:
        shown = f"{{{','.join(choices)}}}"
    elif get_origin(annotation) is tuple:
        shown = "N,N,…"
    elif get_origin(annotation) in (Union, types.UnionType):
        shown = "|".join(str(word) for part in get_args(annotation) for word in get_args(part) or ["N"])
    else:
        shown = {int: "N", float: "X"}.get(annotation, setting.name.upper())
    return f"{shown}|none" if _optional(setting.field.annotation) else shown


def _reader(settings: list[Setting], flag: str) -> Callable[[str], Any]:
    """From the word on the command line to the setting's value. UsageError, naming the flag, if it is no such value.

    Where several kinds of a component have the setting, the value has to be one of any of them.
    """
    choices = _choices(settings)
    nullable = any(_optional(setting.field.annotation) for setting in settings)

    def read(word: str) -> Any:
        if word == "none" and "none" not in choices and nullable:
            return None
        if choices:
            return choices[_one_of(word, choices, flag)]
        complaints = []
        for setting in settings:
            try:
                return _value(setting, word)
            except ValidationError as error:
                complaints.append(_complaint(error, word))
        raise UsageError(f"{flag} {complaints[0]}")

    return read


def _value(setting: Setting, word: str) -> Any:
    """A word as the setting's own kind reads it. ValidationError where it does not."""
    field, annotation = setting.field, _plain(setting.field.annotation)
    if get_origin(annotation) is Literal:
        return {str(value): value for value in get_args(annotation)}.get(word) or TypeAdapter(
            annotation
        ).validate_python(word)
    is_list = get_origin(annotation) is tuple
    value = [part.strip() for part in word.split(",")] if is_list else word
    bounded: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    checked: TypeAdapter[Any] = TypeAdapter(bounded, config=ConfigDict(allow_inf_nan=False))
    result = checked.validate_python(value)
    return list(result) if is_list else result


def _one_of(word: str, choices: Iterable[str], flag: str) -> str:
    if word not in choices:
        raise UsageError(f"{flag}: there is no '{word}'{did_you_mean(word, choices)}")
    return word


def _complaint(error: ValidationError, word: str) -> str:
    """Pydantic's sentence without its subject, with all that may be there: "should be a valid integer or 'all', got x".

    Of a list only the first part that is wrong: "…, got x in 1,x".
    """
    found = error.errors()
    wrong = found[0]["input"]
    alike = [each for each in found if each["input"] == wrong]
    said = (each["msg"].removeprefix("Input ").partition(", unable to parse")[0] for each in alike)
    expected = " or ".join(dict.fromkeys(said)).replace(" or should be ", " or ")
    part = f"{wrong or 'nothing'} in " if isinstance(wrong, str) and wrong != word else ""
    return f"{expected}, got {part}{word}"
