"""Equal epochs and equal bytes: whole rounds, nobody short of passes, and as near to the bytes as rounds can be."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from layerline.schedules.equal import Rounds, equal_bytes, equal_epochs, through_server

COUNTS = st.integers(1, 500)


@given(epochs=COUNTS, nodes=st.integers(1, 50))
def test_in_a_ring_everybody_passes_over_its_own_data_at_least_as_often(epochs: int, nodes: int) -> None:
    equal = equal_epochs(epochs, epochs, nodes, average=False)
    assert equal.passes == equal.count
    assert (equal.passes - 1) * nodes < epochs <= equal.passes * nodes


@given(chapters=COUNTS, each=st.integers(1, 9), nodes=st.integers(1, 50))
def test_an_average_has_its_own_epochs_and_rounds(chapters: int, each: int, nodes: int) -> None:
    assert equal_epochs(chapters * each, chapters, nodes, average=True) == Rounds(chapters * each, chapters)


@given(passes=COUNTS, budget=st.floats(0, 1e6), a_round=st.floats(1, 1e6))
@example(passes=10, budget=20, a_round=4)
@example(passes=10, budget=3.5, a_round=4)
@example(passes=1, budget=0, a_round=1)
def test_rounds_are_whole_and_cost_what_comes_nearest(passes: int, budget: float, a_round: float) -> None:
    equal = equal_bytes(passes, budget, a_round)
    assert abs((equal.count - 1) * a_round - budget) <= a_round / 2 * (1 + 1e-9)
    assert equal.passes % equal.count == 0
    assert passes <= equal.passes < passes + equal.count


def test_rounds_that_cost_nothing_are_one() -> None:
    assert equal_bytes(7, 0, 0) == Rounds(7, 1)


@given(nodes=st.integers(2, 40), passes=st.integers(1, 40))
def test_a_ring_that_goes_round_is_worth_two_nth_of_a_round_a_lap(nodes: int, passes: int) -> None:
    lap, mean = through_server([1] * nodes, average=False), through_server([nodes - 1] * nodes, average=True)
    assert (sum(lap), sum(mean)) == (2, nodes)
    handed_on = equal_bytes(passes, passes * sum(lap), sum(mean)).count - 1
    assert handed_on == pytest.approx(2 * passes / nodes, abs=0.5)
