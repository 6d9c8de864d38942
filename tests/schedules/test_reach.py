"""Which loss trains which block, drawn as the docstring draws it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerline.schedules.reach import Reach


def drawn(reach: Reach) -> list[str]:
    """A row for every block, its number below the loss that trains it."""
    return [" " * reach.teacher(block) + str(block + 1) for block in range(reach.blocks)]


@pytest.mark.parametrize(
    ("reach", "picture"),
    [
        (1, ["1", " 2", "  3", "   4"]),
        (2, [" 1", "  2", "   3", "   4"]),
        (3, ["  1", "   2", "   3", "   4"]),
        (4, ["   1", "   2", "   3", "   4"]),
    ],
)
def test_pictures(reach: int, picture: list[str]) -> None:
    assert drawn(Reach(4, reach)) == picture


def test_what_crosses() -> None:
    three = Reach(5, 3)
    assert three.losses == (2, 3, 4)
    assert [three.at(block) for block in range(5)] == [(2,), (2, 3), (2, 3, 4), (3, 4), (4,)]
    assert [three.crossing(block) for block in range(5)] == [(), (2,), (2, 3), (3, 4), (4,)]


@given(st.integers(1, 12).flatmap(lambda blocks: st.tuples(st.just(blocks), st.integers(1, blocks))))
def test_gradients_arrive_where_they_are_wanted(sizes: tuple[int, int]) -> None:
    """Every block finds its loss at its output, as the furthest; a stage sends what it has, or has received, and no
    list is longer than reach − 1."""
    reach = Reach(*sizes)
    for block in range(reach.blocks):
        found = reach.at(block)
        assert found[-1] == reach.teacher(block)
        assert set(reach.crossing(block)) <= set(found)
        assert len(reach.crossing(block)) <= reach.reach - 1
        assert reach.has_loss(block) == (block in found)
    assert reach.losses[-1] == reach.blocks - 1
    if reach.reach == 1:
        assert not any(reach.crossing(block) for block in range(reach.blocks))
