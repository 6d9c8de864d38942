"""The rule of the replay buffer: which of the last M minibatches a block takes next (DGL, arXiv 1901.08164).

Problem: blocks that run freely are not equally fast. A slow reader must not hold up the writer, and a fast reader must
not idle when there is something that it could learn from once more.

Solution: a ring of M places. The writer overwrites the oldest. The reader takes, among the least used, the most recent:

    M = 3           uses, by minibatch                       takes
    written 0       0:1                                      0
    written 1 2     0:2  1:1  2:1                            2, then 1; then 2: all were used once, it is the latest
    written 3            1:2  2:3  3:1                       3

A use count is the number of the next use, so it starts at 1. With `max_reuse`, a minibatch whose count is past it is
not taken, and the reader idles.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Place:
    """A minibatch in the ring: which step of the writer made it, and the number of its next use."""

    step: int
    uses: int = 1


class Ring:
    """The last `size` minibatches by their numbers, and how often each was used."""

    def __init__(self, size: int, max_reuse: int | None = None) -> None:
        assert size >= 1
        self.size, self.max_reuse = size, max_reuse
        self.places: list[Place] = []
        """In the order they were written."""

    def insert(self, step: int) -> int | None:
        """The writer made `step`; returns the step that had to go, if there was no room."""
        gone = self.places.pop(0).step if len(self.places) == self.size else None
        self.places.append(Place(step))
        return gone

    def take(self) -> int | None:
        """The step to use now, counted as used; None where the reader has to wait."""
        if not self.places:
            return None
        place = min(self.places, key=lambda place: (place.uses, -place.step))
        if self.max_reuse is not None and place.uses > self.max_reuse:
            return None
        place.uses += 1
        return place.step
