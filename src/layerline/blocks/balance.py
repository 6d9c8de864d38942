"""Deal costs in a row out to parts, so that the slowest part is as fast as possible.

Problem: layers go to blocks, and blocks to nodes, in contiguous runs; everyone waits for the heaviest run.

Solution, exact, by dynamic programming over the ends of the parts. Every part holds at least one cost, so part j
(from 0) can only start at j + a and end at j + 1 + b with 0 <= a <= b < w, where w = costs - parts + 1:

    costs   | 5 1 | 2 2 | 4 |        parts = 3, w = 3
    part      0     1     2          part 1: a = 1, b = 2, length b - a + 1 = 2

1. Any sensible partition bounds the answer from above, and with it how long a part can be.
2. First pass: the smallest possible load of the heaviest part, the *bottleneck*.
3. Second pass: among the partitions within the bottleneck, the most even one (least sum of load squared x speed), so
   that ten equal costs in four parts give 3 3 2 2 and not 3 3 3 1. Where that leaves a tie the last part is as short
   as possible, then the one before it, and so on.

Work and memory per part are w x (longest part): a thousand costs take hundredths of a second, and a few seconds in the
worst case, where one cost dwarfs the others and bounds nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from layerline.errors import UsageError

Floats = NDArray[np.float64]


def partition(costs: Sequence[float], parts: int, speeds: Sequence[float] | None = None) -> tuple[int, ...]:
    """Cut `costs` into `parts` contiguous, non-empty parts with the lightest possible heaviest part.

    `costs` are finite and not negative, in any unit. `speeds` (one per part, positive, in the order of the parts)
    divide the cost of their part; without them all parts are equally fast. Integers below 2**53 are added exactly,
    other numbers to rounding.

    Returns the index of the first cost of every later part: `(2, 4)` means 0-1, 2-3 and 4 to the end.

    Raises `UsageError` for fewer than one part, more parts than costs, and impossible costs or speeds.
    """
    if parts < 1:
        raise UsageError(f"cannot deal costs out to {parts} parts", hint="Ask for at least one part.")
    if parts > len(costs):
        raise UsageError(
            f"cannot deal {len(costs)} costs out to {parts} parts: every part needs at least one",
            hint=f"Ask for at most {len(costs)} parts." if len(costs) else None,
        )
    before, rate = _prefix_sums(costs), _rates(speeds, parts)

    longest = _longest_part(before, _upper_bound(before, rate), rate)  # 1
    bottleneck = _bottleneck(before, rate, longest)  # 2
    longest = min(longest, _longest_part(before, bottleneck, rate))
    return _most_even(before, rate, longest, bottleneck)  # 3


def loads(costs: Sequence[float], cuts: Sequence[int], speeds: Sequence[float] | None = None) -> tuple[float, ...]:
    """The load of every part: its cost, divided by its speed if `speeds` are given (unit of costs over speeds).

    `cuts` are what `partition` returns. Raises `UsageError` if the number of speeds is not the number of parts.
    """
    rate = _rates(speeds, len(cuts) + 1)
    bounds = [0, *cuts, len(costs)]
    totals = [math.fsum(costs[start:stop]) for start, stop in pairwise(bounds)]
    return tuple(total / float(speed) for total, speed in zip(totals, rate, strict=True))


def _prefix_sums(costs: Sequence[float]) -> Floats:
    """`before[i]` is the cost of all items before item i, scaled by a power of two to at most 1 (this loses no bit)."""
    values = np.asarray(costs, dtype=np.float64)
    wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if wrong.size:
        index = int(wrong[0])
        raise UsageError(f"cost {index} is {costs[index]}", hint="Costs are finite numbers of 0 or more.")
    before = np.concatenate([[0.0], np.cumsum(np.ldexp(values, -math.frexp(float(values.max()))[1]))])
    scaled: Floats = np.ldexp(before, -math.frexp(float(before[-1]))[1])
    return scaled


def _rates(speeds: Sequence[float] | None, parts: int) -> Floats:
    if speeds is None:
        return np.ones(parts)
    if len(speeds) != parts:
        raise UsageError(f"{len(speeds)} speeds for {parts} parts", hint="Give one speed for every part, in order.")
    rate = np.asarray(speeds, dtype=np.float64)
    wrong = np.flatnonzero(~(np.isfinite(rate) & (rate > 0)))
    if wrong.size:
        index = int(wrong[0])
        raise UsageError(f"speed {index} is {speeds[index]}", hint="Speeds are finite numbers above 0.")
    return rate


def _upper_bound(before: Floats, rate: Floats) -> float:
    """The heaviest load when every cut lies where the ideal share of its part ends, and no part is empty."""
    parts, room = len(rate), len(before) - len(rate)
    ideal = before[-1] * np.cumsum(rate)[:-1] / rate.sum()
    order = np.arange(parts - 1)
    cuts = np.clip(np.maximum.accumulate(np.searchsorted(before, ideal) - order), 1, room) + order
    return float((np.diff(before[np.concatenate([[0], cuts, [len(before) - 1]])]) / rate).max())


def _longest_part(before: Floats, load: float, rate: Floats) -> int:
    """No part within `load` has more items than this (one item of slack covers the rounding)."""
    ends = np.searchsorted(before, before + load * rate.max(), side="right") - 1
    return min(int((ends - np.arange(len(before))).max()) + 1, len(before) - len(rate))


def _bottleneck(before: Floats, rate: Floats, longest: int) -> float:
    """The smallest possible load of the heaviest part."""
    heaviest = _nothing_dealt(before, rate)  # [b]: of the parts so far, if they end at choice b
    for load, start in _part_loads(before, rate, longest):
        heaviest = np.maximum(load, heaviest[start]).min(axis=0)
    return float(heaviest[-1])


def _most_even(before: Floats, rate: Floats, longest: int, bottleneck: float) -> tuple[int, ...]:
    """The cuts of the partition with the least sum of load squared x speed among those within the bottleneck."""
    spread, lengths = _nothing_dealt(before, rate), []
    for (load, start), speed in zip(_part_loads(before, rate, longest), rate, strict=True):
        load[load > bottleneck] = np.inf
        total = np.square(load) * speed + spread[start]
        shortest = total.argmin(axis=0)  # the first of equals, that is the shortest
        spread = np.take_along_axis(total, shortest[None], axis=0)[0]
        lengths.append(shortest + 1)
    cuts, end = [], len(before) - 1
    for part in range(len(rate) - 1, 0, -1):
        end -= int(lengths[part][end - part - 1])
        cuts.append(end)
    return tuple(reversed(cuts))


def _nothing_dealt(before: Floats, rate: Floats) -> Floats:
    """Before the first part exactly one start is possible: item 0."""
    return np.array([0.0] + [np.inf] * (len(before) - len(rate) - 1))


def _part_loads(before: Floats, rate: Floats, longest: int) -> Iterator[tuple[Floats, NDArray[np.int64]]]:
    """For every part `load[length - 1, b]` (infinite where the part cannot start so early) and the start choices a."""
    ends = np.arange(len(before) - len(rate))
    start = ends[None, :] - np.arange(longest)[:, None]
    too_early = start < 0
    start[too_early] = 0
    for part, speed in enumerate(rate):
        load = (before[part + 1 + ends] - before[part + start]) / speed
        load[too_early] = np.inf
        yield load, start
