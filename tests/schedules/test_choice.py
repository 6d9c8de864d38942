"""The sentence below a comparison."""

from __future__ import annotations

import pytest

from layerline.schedules.compare import choice
from layerline.schedules.way import Way


def _way(name: str, seconds: float, note: str = "") -> Way:
    return Way(name, seconds, 100 / seconds, 0.9, 1000, 1000, note)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(100.8, "as fast"), (99.0, "as fast"), (150.0, "1.5× slower"), (50.0, "2.0× faster")],
)
def test_a_rival_within_three_percent_is_as_fast(seconds: float, said: str) -> None:
    """It once read "would be 1.0× slower"."""
    ways = [_way("sequential", 370.0), _way("all-layers", 100.0), _way("GPipe backprop", seconds, "another rule")]
    assert f"; GPipe backprop would be {said} and send 1× as much." in choice(ways)
