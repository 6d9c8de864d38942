"""One order of events from what the nodes of a free run recorded, each for itself.

Sorted by the time at which a step began, as far as clocks agree: a minibatch is always made before it is used, whatever
the clocks of two machines say of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layerline.errors import LayerlineError
from layerline.schedules.order import Order


@dataclass(frozen=True)
class Merged:
    """Events in order, and the seconds since 1970 at which each began and ended."""

    order: Order
    times: NDArray[np.float64]
    """[events, 2]"""

    @staticmethod
    def of(events: NDArray[np.int32], times: NDArray[np.float64], blocks: int, steps: int) -> Merged:
        """From all events [n, 2] and their times [n, 2], node after node; a block's own are in order.

        LayerlineError where a minibatch was used that nobody made.
        """
        lines = [np.flatnonzero(events[:, 0] == block).tolist() for block in range(blocks)]
        sources, begins = events[:, 1].tolist(), times[:, 0].tolist()
        made = [0] * blocks
        merged: list[int] = []
        for _ in range(len(events)):
            ready = [
                (begins[line[made[block]]], block)
                for block, line in enumerate(lines)
                if made[block] < len(line) and (block == 0 or sources[line[made[block]]] < made[block - 1])
            ]
            if not ready:
                raise LayerlineError(f"after {len(merged)} events a block uses what nobody has recorded to have made")
            _, block = min(ready)
            merged.append(lines[block][made[block]])
            made[block] += 1
        order = Order(np.ascontiguousarray(events[merged]), blocks, steps)
        order.check("what the nodes recorded")
        return Merged(order, times[merged])

    def facts(self) -> list[dict[str, int | float]]:
        """Of every block, from 1: what it learned from, how often, and how old it was."""
        return [self._facts(block) for block in range(self.order.blocks)]

    def _facts(self, block: int) -> dict[str, int | float]:
        found = self.order.facts(block)
        if block:
            mine = self.order.events[:, 0] == block
            sources = self.order.events[mine, 1]
            ends = np.sort(self.times[self.order.events[:, 0] == block - 1, 1])
            there = np.searchsorted(ends, self.times[mine, 0], side="right")
            ages = np.clip(there - 1 - sources, 0, None)
            found |= {"age": round(float(ages.mean()), 3), "oldest": int(ages.max())}
        return found
