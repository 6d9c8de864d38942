"""The order of events of a free run: what is recorded, and what a run is done again from.

    order.npy     int32 [events, 2]: block, and the minibatch it used, both from 0

A block's n-th line is its n-th step. The minibatch is named by the step of the block below that made it (for the first
block, by its number in the data). Lines of different blocks may change places, as long as a minibatch is made before it
is used: no clock is in it, so it does not matter who recorded it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from layerline.errors import UsageError
from layerline.files import replacing


@dataclass(frozen=True)
class Order:
    """The events of `blocks` blocks on `steps` minibatches of data."""

    events: NDArray[np.int32]
    blocks: int
    steps: int

    @staticmethod
    def of(events: Sequence[tuple[int, int]], blocks: int, steps: int) -> Order:
        """From a list of (block, minibatch)."""
        return Order(np.array(events, dtype=np.int32).reshape(-1, 2), blocks, steps)

    def __len__(self) -> int:
        return len(self.events)

    @property
    def number(self) -> NDArray[np.int64]:
        """Of each event, the number of its block's step, from 0. [events]"""
        numbers = np.zeros(len(self), dtype=np.int64)
        for block in range(self.blocks):
            mine = np.flatnonzero(self.events[:, 0] == block)
            numbers[mine] = np.arange(len(mine))
        return numbers

    @property
    def origins(self) -> NDArray[np.int64]:
        """Of each event, the minibatch of data that it goes back to. [events]"""
        origins = self.events[:, 1].astype(np.int64)
        below = origins[self.events[:, 0] == 0]
        for block in range(1, self.blocks):
            mine = self.events[:, 0] == block
            below = origins[mine] = below[origins[mine]]
        return origins

    def facts(self, block: int) -> dict[str, int | float]:
        """What block `block` (from 0; counted from 1 in the answer) learned from, and how often."""
        _, uses = np.unique(self.events[self.events[:, 0] == block, 1], return_counts=True)
        found = {"block": block + 1, "steps": int(uses.sum()), "minibatches": len(uses)}
        return found | {"uses": round(float(uses.mean()), 3), "most_uses": int(uses.max())}

    def check(self, source: str) -> None:
        """UsageError, naming `source`, if no blocks could have done this."""
        made = [0] * self.blocks
        for at, (block, minibatch) in enumerate(self.events.tolist()):
            if not 0 <= block < self.blocks:
                raise _impossible(source, at, f"there is no block {block + 1}, the network has {self.blocks}")
            if block == 0 and minibatch != made[0]:
                raise _impossible(source, at, f"the first block reads minibatch {minibatch} after {made[0] - 1}")
            if block and not 0 <= minibatch < made[block - 1]:
                raise _impossible(source, at, f"block {block + 1} uses a minibatch that is not made yet: {minibatch}")
            made[block] += 1
        origins = self.origins
        for block in range(self.blocks):
            own = origins[self.events[:, 0] == block]
            came = int(own.max(initial=-1)) + 1
            if came != self.steps:
                raise UsageError(
                    f"{source}: block {block + 1} comes to minibatch {came} of the data, this run has {self.steps}",
                    hint="choose the --epochs, --batch-size and --max-steps that it was recorded with",
                )
            if (own == self.steps - 1).argmax() != len(own) - 1:
                raise UsageError(
                    f"{source}: block {block + 1} goes on after the last minibatch of the data",
                    hint="record it again with this version: --timing async",
                )

    def write(self, path: Path) -> None:
        """Write it whole; LayerlineError where that is not possible."""
        with replacing(path) as beside, beside.open("wb") as file:
            np.save(file, self.events, allow_pickle=False)

    @staticmethod
    def read(path: Path, blocks: int, steps: int) -> Order:
        """What was recorded. UsageError where it is no order, or not of this run."""
        try:
            events = np.load(path, allow_pickle=False)
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
        except (ValueError, EOFError):  # objects in it are pickled, and not read
            raise UsageError(f"{path} is no order of events: it is no .npy file of numbers") from None
        if not isinstance(events, np.ndarray) or events.dtype != np.int32 or events.ndim != 2 or events.shape[1] != 2:
            raise UsageError(f"{path} is no order of events: it should be int32 of shape [events, 2]")
        order = Order(events, blocks, steps)
        order.check(str(path))
        return order


@dataclass(frozen=True)
class Uses:
    """What becomes of what the events of an order make, looked at from its end."""

    wanted: NDArray[np.bool_]
    """Whether what it makes is used later."""
    last: NDArray[np.bool_]
    """Whether it is the last to use its minibatch."""

    @staticmethod
    def of(order: Order) -> Uses:
        wanted, last = (np.zeros(len(order), dtype=np.bool_) for _ in range(2))
        used: set[tuple[int, int]] = set()
        numbers = order.number.tolist()
        for at in range(len(order) - 1, -1, -1):
            block, minibatch = order.events[at].tolist()
            wanted[at] = (block, numbers[at]) in used
            if block:
                last[at] = (block - 1, minibatch) not in used
                used.add((block - 1, minibatch))
        return Uses(wanted, last)


def _impossible(source: str, at: int, what: str) -> UsageError:
    return UsageError(f"{source}: event {at} cannot be: {what}", hint="record it again: --timing async")
