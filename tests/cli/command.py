"""What a call of the command line gives back."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Answer(NamedTuple):
    """Exit status, standard output, standard error."""

    status: int
    out: str
    err: str


Layerline = Callable[..., Answer]
"""`layerline("train", "digits")`, as the fixture of that name."""
