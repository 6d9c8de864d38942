"""Tables of settings that lie over each other, name by name.

    below   {kind: silu-margin, beta: 12}     {kind: silu-margin, beta: 12}
    above   {beta: 8}                         {kind: logistic}
    both    {kind: silu-margin, beta: 8}      {kind: logistic, theta: 1}

A layer that chooses another kind of a component starts from that kind's defaults: settings of the kind before do not
shine through. A name that the chosen kind does not have is an error, which says whose it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from layerline.cli.components import Table, by_kind, join, members, run_type
from layerline.cli.flags import flag_names
from layerline.errors import UsageError, did_you_mean
from layerline.explain import nearest
from layerline.settings import Settings

_Kinds = Mapping[str | None, type[Settings]]
"""The settings classes a table may be of, by kind; a mere group of settings stands under None."""


@dataclass(frozen=True)
class Layer:
    """Settings that lie over others: a file's, or the flags."""

    settings: Table
    source: str
    """The file, for messages."""
    is_flags: bool = False
    root: type[Settings] | None = None
    """What the settings are of; None: a Run."""

    def over(self, below: Table) -> Table:
        """Both together, for the complete tables of a Run (or `root`)."""
        return self._over(below, self.settings, {None: self.root or run_type()}, "")

    def names(self, path: str) -> bool:
        """Whether the layer says anything at or below a path."""
        found: Any = self.settings
        for name in path.split("."):
            if not isinstance(found, dict) or name not in found:
                return False
            found = found[name]
        return True

    def _over(self, below: Table, above: Table, kinds: _Kinds, path: str) -> Table:
        kind = None if None in kinds else above.get("kind", below.get("kind"))
        if kind not in kinds:
            known = [k for k in kinds if k is not None]
            raise UsageError(f"{self._named(path)}: there is no '{kind}'{did_you_mean(str(kind), known)}")
        model = kinds[kind]
        same = kind is None or kind == below.get("kind")  # a mere group has no kinds to choose from
        result = dict(below) if same else model().model_dump(mode="json", exclude_none=True)
        for name, value in above.items():
            if name not in model.model_fields:
                raise self._stranger(path, name, value, kinds, kind)
            inner = by_kind(members(model.model_fields[name].annotation))
            if value is None:
                result.pop(name, None)
            elif inner and not isinstance(value, dict):
                hint = f'write: [{join(path, name)}] and below it kind = "{value}"' if None not in inner else None
                raise UsageError(f"{self._named(join(path, name))} is a table, got {value!r}", hint=hint)
            else:
                below_it = result.get(name, {})
                result[name] = self._over(below_it, value, inner, join(path, name)) if inner else value
        return result

    def _stranger(self, path: str, name: str, value: Any, kinds: _Kinds, kind: str | None) -> UsageError:
        """The error for a name that the chosen kind does not have."""
        owners = [str(k) for k, model in kinds.items() if name in model.model_fields]
        if not owners:
            known = [n for n in kinds[kind].model_fields if n != "preset"]
            hint = nearest(name, known, self.root or run_type(), {})
            return UsageError(f"unknown setting {self._named(join(path, name))}{hint}")
        component = path.rpartition(".")[2]
        plural = component.endswith("s") and not component.endswith("ss")
        be, theirs = "are" if plural else "is", component
        if len(owners) > 1 and not plural:
            theirs += "es" if component.endswith("s") else "s"
        choose = f"{self._named(path)} {owners[0]}" if self.is_flags else f'kind = "{owners[0]}" in [{path}]'
        return UsageError(
            f"{self._named(_first_leaf(join(path, name), value))} belongs to the {' and '.join(owners)} {theirs}, "
            f"but the {component} {be} {kind}",
            hint=f"choose it with {choose}" if len(owners) == 1 else f"choose one with {choose}",
        )

    def _named(self, path: str) -> str:
        """How the user called it."""
        return flag_names(path, self.root)[0] if self.is_flags else f"{self.source}: '{path}'"


def _first_leaf(path: str, value: Any) -> str:
    """The first thing that was really said below a path."""
    while isinstance(value, dict) and value:
        name, value = next(iter(value.items()))
        path = path if name == "kind" else join(path, name)
    return path
