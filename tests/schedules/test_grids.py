"""The grids of the schedules, drawn as in the papers. `2.1` is block 2 for chapter 1; `*`: then new negatives."""

from __future__ import annotations

from textwrap import dedent
from typing import Any

import pytest

from layerline.schedules.all_layers import AllLayers
from layerline.schedules.base import BaseSchedule
from layerline.schedules.dff import Dff
from layerline.schedules.exchange import Minibatches
from layerline.schedules.federated import Federated
from layerline.schedules.grid import grid
from layerline.schedules.lower import messages
from layerline.schedules.sequential import Sequential
from layerline.schedules.single_layer import SingleLayer
from layerline.schedules.work import Work

PAIRS = Minibatches(examples=8, batch=4, epochs=1)
GRIDS: list[tuple[str, BaseSchedule, dict[str, Any], str]] = [
    (
        "sequential",
        Sequential(),
        {"blocks": 3, "chapters": 2},
        """
                  1    2    3    4    5    6
        node 1  1.1  2.1  3.1  1.2  2.2  3.2
        """,
    ),
    (
        "sequential with a head and judged negatives",
        Sequential(),
        {"blocks": 2, "chapters": 2, "head": True, "judged": True},
        """
                   1     2     3     4     5     6
        node 1  1.1   2.1   h.1*  1.2   2.2   h.2
        """,
    ),
    (
        "minibatches in turn: two chapters of two, labels for both nodes at the end of each",
        AllLayers(),
        {"blocks": 2, "chapters": 2, "nodes": 2, "judged": True, "minibatches": PAIRS},
        """
                   1     2     3     4     5     6
        node 1  1.1   2.1         1.3   2.3
        node 2        1.2   2.2*        1.4   2.4
        """,
    ),
    (
        "averaged after every minibatch",
        Federated(average=True),
        {"blocks": 2, "chapters": 1, "nodes": 2, "minibatches": Minibatches(examples=12, batch=2, epochs=1)},
        """
                  1    2    3    4    5    6
        node 1  1.1  2.1  1.2  2.2  1.3  2.3
        node 2  1.1  2.1  1.2  2.2  1.3  2.3
        """,
    ),
    (
        "PFF, Figure 4",
        SingleLayer(),
        {"blocks": 3, "chapters": 3, "nodes": 3},
        """
                  1    2    3    4    5
        node 1  1.1  1.2  1.3
        node 2       2.1  2.2  2.3
        node 3            3.1  3.2  3.3
        """,
    ),
    (
        "PFF, Figure 5",
        AllLayers(),
        {"blocks": 3, "chapters": 6, "nodes": 3},
        """
                  1    2    3    4    5    6    7    8
        node 1  1.1  2.1  3.1  1.4  2.4  3.4
        node 2       1.2  2.2  3.2  1.5  2.5  3.5
        node 3            1.3  2.3  3.3  1.6  2.6  3.6
        """,
    ),
    (
        "the head as a node's own stage",
        SingleLayer(),
        {"blocks": 2, "chapters": 4, "nodes": 3, "head": True, "judged": True},
        """
                   1     2     3     4     5     6
        node 1  1.1   1.2   1.3   1.4
        node 2        2.1   2.2   2.3   2.4
        node 3              h.1*  h.2   h.3   h.4
        """,
    ),
    (
        "ranking shared: every node a part, a slot after the last node has trained",
        SingleLayer(hand_over="activations", ranking="shared"),
        {"blocks": 2, "chapters": 5, "nodes": 2, "judged": True},
        """
                   1     2     3     4     5     6
        node 1  1.1   1.2   1.3*  1.4*  1.5
        node 2        2.1   2.2*  2.3*  2.4   2.5
        """,
    ),
    (
        "labels of the chapter just before: nobody trains ahead",
        SingleLayer(delay=(1, 1)),
        {"blocks": 2, "chapters": 3, "nodes": 2, "judged": True},
        """
                   1     2     3     4     5     6
        node 1  1.1         1.2         1.3
        node 2        2.1*        2.2*        2.3
        """,
    ),
    (
        "fewer nodes than stages",
        SingleLayer(),
        {"blocks": 4, "chapters": 2, "nodes": 2},
        """
                  1    2    3    4    5    6
        node 1  1.1  2.1  1.2  2.2
        node 2            3.1  4.1  3.2  4.2
        """,
    ),
    (
        "a slow node owns less",
        SingleLayer(hand_over="activations"),
        {"blocks": 4, "chapters": 2, "nodes": 2, "speeds": (1.0, 3.0)},
        """
                  1    2    3    4    5    6    7
        node 1  1.1  1.2
        node 2       2.1  3.1  4.1  2.2  3.2  4.2
        """,
    ),
    (
        "more nodes than stages: a grid of blocks and data",
        SingleLayer(),
        {"blocks": 2, "chapters": 3, "nodes": 4},
        """
                  1    2    3    4
        node 1  1.1  1.2  1.3
        node 2  1.1  1.2  1.3
        node 3       2.1  2.2  2.3
        node 4       2.1  2.2  2.3
        """,
    ),
    (
        "the same for All-Layers, and a node that is left over",
        AllLayers(),
        {"blocks": 2, "chapters": 3, "nodes": 5},
        """
                  1    2    3    4
        node 1  1.1  2.1  1.3  2.3
        node 2  1.1  2.1  1.3  2.3
        node 3       1.2  2.2
        node 4       1.2  2.2
        node 5
        """,
    ),
    (
        "chapters that three nodes do not divide",
        AllLayers(),
        {"blocks": 3, "chapters": 4, "nodes": 3},
        """
                  1    2    3    4    5    6
        node 1  1.1  2.1  3.1  1.4  2.4  3.4
        node 2       1.2  2.2  3.2
        node 3            1.3  2.3  3.3
        """,
    ),
    (
        "federated, ring relay",
        Federated(),
        {"blocks": 2, "chapters": 4, "nodes": 2},
        """
                  1    2    3    4    5
        node 1  1.1  2.1  1.3  2.3
        node 2       1.2  2.2  1.4  2.4
        """,
    ),
    (
        "federated, averaged",
        Federated(average=True),
        {"blocks": 2, "chapters": 2, "nodes": 2},
        """
                  1    2    3    4
        node 1  1.1  2.1  1.2  2.2
        node 2  1.1  2.1  1.2  2.2
        """,
    ),
    (
        "DFF",
        Dff(),
        {"blocks": 3, "chapters": 3, "nodes": 3},
        """
                  1    2    3    4    5
        node 1  1.1  1.2  1.3
        node 2       2.1  2.2  2.3
        node 3            3.1  3.2  3.3
        """,
    ),
]


@pytest.mark.parametrize(("schedule", "work", "drawn"), [case[1:] for case in GRIDS], ids=[case[0] for case in GRIDS])
def test_the_grid_is_the_one_drawn(schedule: BaseSchedule, work: dict[str, Any], drawn: str) -> None:
    plan = schedule.plan(Work(**work))
    assert grid(plan, messages(plan)) == dedent(drawn).strip("\n").splitlines()


def test_a_large_plan_shows_its_beginning_and_its_end() -> None:
    plan = AllLayers().plan(Work(blocks=60, chapters=300, nodes=50))
    lines = grid(plan, messages(plan), width=70, height=6)
    assert (
        lines
        == dedent(
            """
                   1    2    3    4    5    6    7  …     407     408     409
        node 1   1.1  2.1  3.1  4.1  5.1  6.1  7.1  …
        node 2        1.2  2.2  3.2  4.2  5.2  6.2  …
        …
        node 48                                     …  60.298
        node 49                                     …  59.299  60.299
        node 50                                     …  58.300  59.300  60.300
        """
        )
        .strip("\n")
        .splitlines()
    )
