"""What FedAvg beside a federated run may have, to be no better off: as many passes over the data, or as many bytes.

    a ring        epochs are passes of a block over all shards, so each node passes E / N times over its own
    an average    every node passes E times over its own, and a round is a chapter

A round of FedAvg ends with a mean, for which every node sends its network and gets all others'. The last round's mean
is nobody's to go on from, so R rounds cost as much as R − 1.

Bytes are counted through a server that passes blocks on, as on Flower: a block goes up once, and comes down to
everybody who needs it. Both engines count alike what came down, so that says what went up, too; and what is sent only
because the run is finished counts on neither.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean


@dataclass(frozen=True)
class Rounds:
    """Of FedAvg: so many passes of every node over its own data, in equal rounds."""

    passes: int
    count: int


def passes_of(epochs: int, nodes: int, average: bool) -> int:
    """How often each node of a federated run passes over its own data; rounded up."""
    return epochs if average else math.ceil(epochs / nodes)


def equal_epochs(epochs: int, chapters: int, nodes: int, average: bool) -> Rounds:
    """As many passes, in as many rounds as an averaged run has, else in one for each pass."""
    passes = passes_of(epochs, nodes, average)
    return Rounds(passes, chapters if average else passes)


def equal_bytes(passes: int, budget: float, a_round: float) -> Rounds:
    """As many rounds as come nearest to `budget`, where one that is handed on costs `a_round`, in the same unit.

    At least `passes`, more where rounds would not be whole. Where a round costs nothing, one round.
    """
    handed_on = max(0, math.ceil(budget / a_round - 0.5)) if a_round else 0  # of two equally near the smaller
    count = 1 + handed_on
    return Rounds(count * math.ceil(passes / count), count)


def through_server(bytes_down: Sequence[int], average: bool) -> tuple[float, float]:
    """Bytes that a node of a federated run sends up and gets, on average; what goes to all others is sent once."""
    nodes, down = len(bytes_down), mean(bytes_down)
    return down / max(1, nodes - 1 if average else 1), down
