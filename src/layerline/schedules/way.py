"""A way to train a network on some nodes, in the numbers that a comparison needs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Way:
    """Seconds and bytes of a whole training."""

    name: str
    """As the flags that choose it, after --schedule; or in words, where it is no schedule."""
    seconds: float
    speedup: float
    """Over one node of speed 1 that trains as many images by the same rule."""
    utilisation: float
    """Mean over the nodes."""
    bytes: int
    """Over all links."""
    memory: int
    """The most one node holds."""
    note: str = ""
    """What makes it another training."""

    @property
    def comparable(self) -> bool:
        """Whether it is the training that the table is about, only elsewhere."""
        return not self.note
