"""`--costs FILE.json`: slot costs that were measured before, here or elsewhere, instead of assumed ones.

The file is what `layerline plan … --measure --format json` printed, or a table of its own with any of the same names:
`{"train": [2.1, 5.25, 5.25, 5.25], "forward": [0.7, 1.8, 1.8, 1.8], "ranking": 27.7}`, in seconds for the whole set.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

from layerline.errors import UsageError, did_you_mean
from layerline.schedules.costs import Costs


def read_costs(path: str, below: Costs) -> Costs:
    """The costs of a file over others. UsageError for a file, names or numbers that are none."""
    try:
        with open(path, encoding="utf-8") as file:
            table = json.load(file)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}") from None
    table = table.get("costs", table) if isinstance(table, dict) else None
    if not isinstance(table, dict):
        raise UsageError(f"{path} holds no table of costs")
    known = asdict(below)
    for name, value in table.items():
        if name not in known:
            raise UsageError(f"{path}: there is no cost '{name}'{did_you_mean(str(name), known)}")
        _check(path, name, value, known[name])
    given: dict[str, Any] = {str(name): tuple(v) if isinstance(v, list) else v for name, v in table.items()}
    return replace(below, **given)


def _check(path: str, name: str, value: Any, like: Any) -> None:
    count = len(like) if isinstance(like, tuple) else None
    numbers = value if isinstance(value, list) else [value]
    if (count is None) == isinstance(value, list) or (count is not None and len(numbers) != count):
        wanted = "one number" if count is None else f"a list of {count} numbers, one for every stage or block"
        raise UsageError(f"{path}: {name} should be {wanted}, got {value!r}")
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < float("inf"):
            raise UsageError(f"{path}: {name} should be 0 or more, got {number!r}")
