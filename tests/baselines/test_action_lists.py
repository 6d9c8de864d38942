"""The lists are PyTorch's own: small ones as they are, any as plans that somebody could carry out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerline.baselines import action_lists as adapter
from layerline.baselines.action_lists import action_lists
from layerline.errors import LayerlineError, UsageError
from layerline.schedules.grid import grid
from layerline.schedules.lower import messages
from layerline.schedules.methods import Method, refuse_shape, stages_of
from layerline.schedules.pipelined import Pipelined

GRIDS: dict[Method, tuple[int, int, str]] = {
    "gpipe": (3, 3, """
          1    2    3    4    5    6    7    8    9   10  11
node 1  1F0  1F1  1F2                      1B0  1B1  1B2  1U
node 2       2F0  2F1  2F2            2B0  2B1  2B2   2U
node 3            3F0  3F1  3F2  3B0  3B1  3B2   3U"""),
    "1f1b": (2, 4, """
          1    2    3    4    5    6    7    8    9   10  11
node 1  1F0  1F1       1B0  1F2  1B1  1F3  1B2       1B3  1U
node 2       2F0  2B0  2F1  2B1  2F2  2B2  2F3  2B3   2U"""),
    "interleaved-1f1b": (2, 2, """
          1    2    3    4    5    6    7    8    9   10  11  12
node 1  1F0  1F1  3F0  3F1       3B0       3B1  1B0  1B1  1U  3U
node 2       2F0  2F1  4F0  4B0  4F1  4B1  2B0  2B1   2U  4U"""),
    "zero-bubble": (2, 3, """
          1    2    3    4    5    6    7    8    9   10  11
node 1  1F0  1F1       1I0  1W0  1F2  1I1  1W1  1I2  1W2  1U
node 2       2F0  2I0  2F1  2I1  2W0  2F2  2I2  2W1  2W2  2U"""),
}  # fmt: skip


def pipelined(method: Method, nodes: int, microbatches: int) -> Pipelined:
    """With a block a stage."""
    stages = tuple(range(stage, stage + 1) for stage in range(stages_of(method, nodes)))
    orders = action_lists(method, nodes, microbatches)
    return Pipelined(name=method, stages=stages, orders=orders, microbatches=microbatches)


@pytest.mark.parametrize("method", GRIDS)
def test_the_lists_of_pytorch(method: Method) -> None:
    """If this fails after an update of PyTorch, its schedules have changed: look at them, then write down new ones."""
    nodes, microbatches, drawn = GRIDS[method]
    plan = pipelined(method, nodes, microbatches).plan(1)
    assert [line.rstrip() for line in grid(plan, messages(plan), width=116)] == drawn.splitlines()[1:]


@given(method=st.sampled_from(list(GRIDS)), nodes=st.integers(2, 5), microbatches=st.integers(1, 12))
def test_what_is_not_refused_can_be_carried_out(method: Method, nodes: int, microbatches: int) -> None:
    """Every stage has all of its rows, and none waits for ever; PyTorch refuses nothing that we let pass."""
    try:
        refuse_shape(method, nodes, microbatches)
    except UsageError:
        return
    division = pipelined(method, nodes, microbatches)
    each = 3 if method == "zero-bubble" else 2
    assert len(set(division.order())) == len(division.stages) * (each * microbatches + 1)
    assert division.places == tuple(stage % nodes for stage in range(len(division.stages)))


@pytest.mark.parametrize("changed", [object, lambda *_: object(), lambda *_: None])
def test_another_pytorch_is_told_of(changed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(adapter.SCHEDULES, "gpipe", changed)
    with pytest.raises(LayerlineError, match="keeps the actions of its pipeline schedules in another form"):
        action_lists("gpipe", 2, 2)


def test_what_pytorch_refuses_is_said_in_its_words() -> None:
    with pytest.raises(UsageError, match=r"Number of microbatches \(1\) must be greater than"):
        action_lists("1f1b", 2, 1)
