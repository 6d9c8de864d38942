"""What is wrong with settings, in the words of the file they stand in.

Problem: pydantic names places by its own path (`loss.symba.alpha`) and lists everything at once. Solution: the first
thing it found, with the name as TOML has it, the value, and a suggestion where a name is close.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, get_args

from pydantic import ValidationError

from layerline.errors import did_you_mean
from layerline.settings import Settings


def explain(error: ValidationError, root: type[Settings], settings: dict[str, Any]) -> str:
    """One line for the first thing pydantic found in the settings of a `root`."""
    first = error.errors()[0]
    path = _path(first["loc"], settings)
    name = ".".join(path)
    if first["type"] == "extra_forbidden":
        known = [other.rpartition(".") for other in _names(root, settings)]
        beside = [leaf for under, _, leaf in known if under == ".".join(path[:-1])]
        return f"unknown setting '{name}'{nearest(path[-1], beside, root, settings)}"
    if first["type"] == "union_tag_invalid":
        context = first["ctx"]
        tags = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
        return f"{name}: there is no '{context['tag']}'{did_you_mean(str(context['tag']), tags)}"
    said = first["msg"].removeprefix("Value error, ")
    whole = isinstance(first["input"], dict)  # a component, whose message names what is wrong in it
    got = "" if whole else f", got {first['input']!r}"
    return f"{name}: {said[0].lower()}{said[1:]}{got}"


def nearest(leaf: str, beside: Iterable[str], root: type[Settings], settings: dict[str, Any]) -> str:
    """What may be meant by a name that stands in the wrong place (it is then the right one), or is written wrongly."""
    elsewhere = [other for other in _names(root, settings) if other.rpartition(".")[2] == leaf]
    return f"; did you mean '{elsewhere[0]}'?" if elsewhere else did_you_mean(leaf, beside)


def _path(location: tuple[str | int, ...], settings: Any) -> list[str]:
    """The TOML name of a place: pydantic also names the kind it chose (`loss.symba.alpha`), TOML does not."""
    path, here = [], settings
    for part in location:
        if isinstance(here, dict) and part not in here and part == here.get("kind"):
            continue
        path.append(str(part))
        here = here.get(part) if isinstance(here, dict) else None
    return path


def _names(component: type[Settings], settings: Any, under: str = "") -> Iterator[str]:
    """Every name that can stand in this file, like `objective.loss.beta`, given the kinds it has chosen."""
    for name, field in component.model_fields.items():
        yield under + name
        here = settings.get(name) if isinstance(settings, dict) else None
        kind = here.get("kind") if isinstance(here, dict) else None
        for member in get_args(field.annotation) or (field.annotation,):
            if isinstance(member, type) and issubclass(member, Settings):
                own = member.model_fields.get("kind")
                if kind is None or own is None or own.default == kind:
                    yield from _names(member, here, f"{under}{name}.")
