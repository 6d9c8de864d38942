"""The tree of settings behind the Run: what there is to choose, and which settings belong to which choice.

    path                   belongs to                                                  is
    epochs                 every run                                                   a setting
    augment.shift          every run                                                   a setting
    objective              every run                                                   a component, chosen by kind
    objective.loss         objective forward-forward                                   a component, chosen by kind
    objective.loss.beta    objective forward-forward and objective.loss silu-margin    a setting

The flags of the command line and the checks on tables both walk this tree, so a new setting or component appears in
each as soon as it is a field of the Run.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from layerline.settings import Settings

Table = dict[str, Any]
"""Settings as plain values and nested tables, as in TOML."""

_NOT_FOR_FLAGS = {"preset"}  # the name a run started from: the positional argument


@dataclass(frozen=True)
class Setting:
    """A field somewhere below the Run. One path may occur under several kinds of a component (`readout.skip`)."""

    path: str
    """The names from the Run down, joined by dots, as in TOML."""
    field: FieldInfo
    kinds: Mapping[str, type[Settings]]
    """The choices, if this is a component; else empty."""
    owner: str | None = None
    """The kind of the component right above that has this field; None if it has only one kind."""

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]

    @property
    def help(self) -> str:
        """The field's docstring, on one line."""
        return " ".join((self.field.description or "").split())


def join(path: str, name: str) -> str:
    """A name below a path."""
    return f"{path}.{name}" if path else name


def members(annotation: Any) -> list[type[Settings]]:
    """The settings classes an annotation stands for: one, the members of a union, or none for a plain value."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for part in get_args(annotation) for member in members(part)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, Settings) else []


def kind_of(model: type[Settings]) -> str | None:
    """The `kind` of a component; None for a mere group of settings."""
    field = model.model_fields.get("kind")
    return None if field is None else str(field.default)


def by_kind(models: list[type[Settings]]) -> dict[str | None, type[Settings]]:
    """Settings classes by their kind; a mere group stands under None."""
    return {kind_of(model): model for model in models}


def walk(model: type[Settings], path: str = "", owner: str | None = None) -> Iterator[Setting]:
    """Every component and setting below a model, components before what is in them."""
    for name, field in model.model_fields.items():
        here = join(path, name)
        if name == "kind" or here in _NOT_FOR_FLAGS:
            continue
        inner = by_kind(members(field.annotation))
        kinds = {kind: member for kind, member in inner.items() if kind is not None}
        if kinds or not inner:
            yield Setting(here, field, kinds, owner)
        for kind, member in inner.items():
            yield from walk(member, here, kind if len(kinds) > 1 else None)


@cache
def settings_below(root: type[Settings]) -> dict[str, list[Setting]]:
    """All that can be set in `root`, by path; several entries where several kinds have a setting of that name."""
    found: dict[str, list[Setting]] = {}
    for setting in walk(root):
        found.setdefault(setting.path, []).append(setting)
    return found


def run_type() -> type[Settings]:
    """The Run, which nobody who only plans by numbers needs: PyTorch comes with it, and takes seconds."""
    from layerline.run import Run

    return Run


def run_settings() -> dict[str, list[Setting]]:
    """All that can be set in a Run."""
    return settings_below(run_type())
