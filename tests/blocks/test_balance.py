"""Exact partitions: the pictures, brute force on small cases, and what cannot be dealt out."""

from __future__ import annotations

import time
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerline.blocks.balance import loads, partition
from layerline.errors import UsageError


def dealt(costs: list[float], cuts: tuple[int, ...]) -> list[list[float]]:
    return [costs[start:stop] for start, stop in pairwise([0, *cuts, len(costs)])]


def test_the_heaviest_part_is_as_light_as_possible() -> None:
    costs = [5.0, 1, 2, 2, 4]
    assert dealt(costs, partition(costs, 1)) == [[5, 1, 2, 2, 4]]
    assert dealt(costs, partition(costs, 2)) == [[5, 1, 2], [2, 4]]
    assert dealt(costs, partition(costs, 3)) == [[5], [1, 2, 2], [4]]
    assert dealt(costs, partition(costs, 5)) == [[5], [1], [2], [2], [4]]


def test_among_equals_the_even_partition_and_then_the_one_with_the_longer_parts_first() -> None:
    assert dealt([1.0] * 10, partition([1.0] * 10, 4)) == [[1] * 3, [1] * 3, [1] * 2, [1] * 2]
    assert dealt([9.0, 1, 1, 1, 1], partition([9.0, 1, 1, 1, 1], 3)) == [[9], [1, 1], [1, 1]]
    assert dealt([0.0] * 3, partition([0.0] * 3, 2)) == [[0, 0], [0]]


def test_a_slow_part_gets_less() -> None:
    assert partition([1.0] * 5, 3, speeds=[1, 1, 0.5]) == (2, 4)
    assert partition([1.0] * 5, 3, speeds=[0.5, 1, 1]) == (1, 3)
    assert loads([1.0] * 5, (2, 4), speeds=[1, 1, 0.5]) == (2, 2, 2)


def test_a_slow_part_waits_for_a_light_cost() -> None:
    """The first part must not take all it could carry: the second can carry nothing but the 1 in the middle."""
    assert partition([5.0, 1, 50, 50], 3, speeds=[1, 0.01, 1]) == (1, 2)


whole = st.lists(st.integers(0, 12), min_size=1, max_size=9)
measured = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=9)


@settings(deadline=None)
@given(st.data(), whole | measured)
def test_brute_force_finds_nothing_better(data: st.DataObject, costs: list[float]) -> None:
    parts = data.draw(st.integers(1, len(costs)))
    rates = st.lists(st.sampled_from([0.25, 0.5, 1.0, 2.0]), min_size=parts, max_size=parts)
    speeds = data.draw(st.none() | rates)

    cuts = partition(costs, parts, speeds)

    assert len(cuts) == parts - 1
    assert all(start < stop for start, stop in pairwise([0, *cuts, len(costs)]))
    assert partition(costs, parts, speeds) == cuts

    def heaviest(cuts: tuple[int, ...]) -> float:
        return max(loads(costs, cuts, speeds))

    def unevenness(cuts: tuple[int, ...]) -> float:
        rate = speeds or [1.0] * parts
        return sum(load * load * speed for load, speed in zip(loads(costs, cuts, speeds), rate, strict=True))

    everything = list(combinations(range(1, len(costs)), parts - 1))
    best = min(map(heaviest, everything))
    assert heaviest(cuts) == pytest.approx(best, rel=1e-12)
    if all(isinstance(cost, int) for cost in costs):  # sums are exact: the ties can be told
        within = [other for other in everything if heaviest(other) == best]
        least = min(map(unevenness, within))
        assert cuts == max((other for other in within if unevenness(other) == least), key=lambda cuts: cuts[::-1])


@settings(deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=2, max_size=30), st.integers(-60, 60))
def test_the_unit_of_the_costs_does_not_matter(costs: list[int], exponent: int) -> None:
    parts = len(costs) // 2
    assert partition([cost * 2.0**exponent for cost in costs], parts) == partition(costs, parts)


@pytest.mark.parametrize("giant", [False, True])
def test_a_thousand_costs_take_seconds_at_most(giant: bool) -> None:
    costs = np.random.default_rng(0).uniform(0.5, 2.0, 1000)
    if giant:
        costs[300] = 1e6
    begin = time.perf_counter()
    for parts in (4, 333, 1000):
        partition(costs.tolist(), parts, speeds=np.linspace(1, 2, parts).tolist())
    assert time.perf_counter() - begin < 30


@pytest.mark.parametrize(
    ("costs", "parts", "speeds", "what"),
    [
        ([1.0, 2.0], 0, None, "0 parts"),
        ([1.0, 2.0], 3, None, "2 costs out to 3 parts"),
        ([], 1, None, "0 costs out to 1 parts"),
        ([1.0, -2.0], 1, None, "cost 1 is -2.0"),
        ([float("nan"), 1.0], 1, None, "cost 0 is nan"),
        ([float("inf"), 1.0], 1, None, "cost 0 is inf"),
        ([1.0, 2.0], 2, [1.0], "1 speeds for 2 parts"),
        ([1.0, 2.0], 2, [1.0, 0.0], "speed 1 is 0.0"),
    ],
)
def test_what_cannot_be_dealt_out(costs: list[float], parts: int, speeds: list[float] | None, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        partition(costs, parts, speeds)


def test_loads_want_a_speed_for_every_part() -> None:
    with pytest.raises(UsageError, match="3 speeds for 2 parts"):
        loads([1.0, 2.0], (1,), speeds=[1, 1, 1])
