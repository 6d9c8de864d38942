"""What came from another process fits the place it is meant for, or is refused.

Problem: a checksum says that a message is what its sender meant, not that the sender meant what is wanted here. A
block of another shape would be spread over the one here by broadcasting, a missing name end in a KeyError. Solution:
names and sizes are compared before anything is taken over, and what has to be decoded first may fail to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from layerline.errors import MessageRefused
from layerline.transport.message import SAME_RUN


def fit(what: str, came: Mapping[str, Tensor], wanted: Mapping[str, Sequence[int] | None]) -> None:
    """MessageRefused unless a tensor of each wanted name and shape (None: any) is among those that came."""
    for name, sizes in wanted.items():
        if name not in came:
            why = f"there is no '{name}' in it"
        elif sizes is not None and came[name].shape != tuple(sizes):
            why = f"'{name}' is {_product(came[name].shape)}, wanted is {_product(sizes)}"
        else:
            continue
        raise MessageRefused(f"{what} was refused: {why}", hint=SAME_RUN)


@contextmanager
def reading(what: str) -> Iterator[None]:
    """While nothing is done but to decode what came: MessageRefused where that fails."""
    try:
        yield
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise  # says nothing of what came
    except (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError) as error:
        why = f"there is no {error} in it" if isinstance(error, KeyError) else str(error).split("\n")[0]
        raise MessageRefused(f"{what} was refused: {why}", hint=SAME_RUN) from error


def _product(sizes: Sequence[int]) -> str:
    return " × ".join(map(str, sizes)) or "one number"
