"""Dealing work out: against trying every possibility."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerline.errors import UsageError
from layerline.schedules.all_layers import AllLayers
from layerline.schedules.base import named_nodes, unused_nodes
from layerline.schedules.deal import deal_images, deal_stages, stage_costs
from layerline.schedules.dff import Dff
from layerline.schedules.federated import Federated
from layerline.schedules.plan import Action
from layerline.schedules.sequential import Sequential
from layerline.schedules.single_layer import SingleLayer
from layerline.schedules.validate import validate
from layerline.schedules.work import Work

COST = st.floats(0.01, 10)


@st.composite
def dealt(draw: st.DrawFn) -> tuple[Work, tuple[float, ...]]:
    blocks, head = draw(st.integers(1, 6)), draw(st.booleans())
    stages = blocks + head
    nodes = draw(st.integers(1, stages))
    work = Work(
        blocks=blocks,
        chapters=1,
        head=head,
        train=tuple(draw(st.lists(COST, min_size=stages, max_size=stages))),
        forward=tuple(draw(st.lists(COST, min_size=blocks, max_size=blocks))),
    )
    return work, tuple(draw(st.lists(COST, min_size=nodes, max_size=nodes)))


@given(given_work=dealt(), recompute=st.booleans())
@settings(max_examples=200, deadline=None)
def test_stages_are_dealt_as_well_as_they_can_be(given_work: tuple[Work, tuple[float, ...]], recompute: bool) -> None:
    work, speeds = given_work
    cost = stage_costs(work, recompute=recompute)

    def slowest(cuts: tuple[int, ...]) -> float:
        bounds = pairwise((0, *cuts, work.stages))
        return max(float(cost[a, b]) / speed for (a, b), speed in zip(bounds, speeds, strict=True))

    groups = deal_stages(cost, speeds)
    assert [stage for group in groups for stage in group] == list(range(work.stages))
    best = min(map(slowest, combinations(range(1, work.stages), len(speeds) - 1)))
    assert slowest(tuple(group.start for group in groups[1:])) == pytest.approx(best)


def test_what_a_node_pays_for_its_stages() -> None:
    """Blocks of 1, 2 and 4 to train and 0.1, 0.2, 0.4 to forward, and a head of 8."""
    work = Work(blocks=3, chapters=1, head=True, train=(1, 2, 4, 8), forward=(0.1, 0.2, 0.4))
    again, handed = stage_costs(work, recompute=True), stage_costs(work, recompute=False)
    assert again[0, 1] == pytest.approx(1)  # trains, and forwards nothing: the next node does that itself
    assert again[1, 2] == pytest.approx(2 + 0.1)
    assert again[1, 3] == pytest.approx(2 + 4 + 0.1 + 0.2)
    assert again[2, 4] == pytest.approx(4 + 8 + 0.1 + 0.2)
    assert again[3, 4] == pytest.approx(8)  # the head makes its own neutral pass, which its cost includes
    assert handed[0, 1] == pytest.approx(1 + 0.1)
    assert handed[1, 3] == pytest.approx(2 + 4 + 0.2)
    assert handed[2, 3] == pytest.approx(4)  # nobody learns from the last block's outputs


@given(
    loads=st.lists(st.floats(0, 10), min_size=1, max_size=6),
    amount=st.floats(0.01, 50),
    speeds=st.lists(st.floats(0.1, 5), min_size=6, max_size=6),
)
@settings(max_examples=300, deadline=None)
def test_images_flow_to_the_least_busy(loads: list[float], amount: float, speeds: list[float]) -> None:
    shares = deal_images(loads, amount, speeds[: len(loads)])
    assert sum(shares) == pytest.approx(1)
    ends = [load + share * amount / speed for load, share, speed in zip(loads, shares, speeds, strict=False)]
    working = [end for end, share in zip(ends, shares, strict=True) if share > 0]
    assert working == pytest.approx([working[0]] * len(working), rel=1e-6)
    assert all(end >= working[0] - 1e-6 for end in ends)


@pytest.mark.parametrize(
    ("schedule", "work", "unused", "why"),
    [
        (Sequential(), {"nodes": 3}, "nodes 2 and 3", "runs on one node"),
        (AllLayers(), {"nodes": 5}, "node 5", "as many nodes as there are stages (4"),
        (AllLayers(), {"nodes": 4, "chapters": 2}, "nodes 3 and 4", "a chapter of its own, and there are 2"),
        (AllLayers(), {"nodes": 4, "speeds": (1, 1, 1, 0.01)}, "node 4", "at its speed the others would only wait"),
        (SingleLayer(), {"nodes": 7}, "nodes 5 to 7", "one node for every stage (4"),
        (Federated(), {"nodes": 9, "chapters": 8}, "node 9", "a chapter of its own, and there are 8"),
    ],
)
def test_nodes_that_cannot_be_used(
    schedule: Sequential | AllLayers | SingleLayer | Federated, work: dict[str, object], unused: str, why: str
) -> None:
    asked = Work(**{"blocks": 4, "chapters": 20} | work)  # type: ignore[arg-type]
    assert named_nodes(unused_nodes(schedule.plan(asked))) == unused
    assert why in schedule.why_unused(asked)


@pytest.mark.parametrize(("schedule", "nodes"), [(AllLayers(), 8), (SingleLayer(), 12), (Federated(average=True), 7)])
def test_multiples_and_private_data_use_all_nodes(schedule: AllLayers | SingleLayer | Federated, nodes: int) -> None:
    assert unused_nodes(schedule.plan(Work(blocks=4, chapters=20, nodes=nodes))) == ()


def test_delays_that_cannot_be() -> None:
    work = Work(blocks=3, chapters=2, nodes=3, judged=True)
    with pytest.raises(UsageError, match=r"2 delays for 3 nodes that own blocks\n.*--delay 4,3,2"):
        SingleLayer(delay=(1, 1)).plan(work)
    with pytest.raises(UsageError, match="at least 1 chapter old"):
        SingleLayer(delay=(1, 0, 1)).plan(work)


@pytest.mark.parametrize("schedule", [SingleLayer, Dff])
def test_stages_are_dealt_as_somebody_says(schedule: type[SingleLayer] | type[Dff]) -> None:
    work = Work(blocks=4, chapters=2, nodes=2, head=True)
    plan = schedule(owns=(1, 4)).plan(work)
    validate(plan)
    trained = plan.action == Action.TRAIN
    assert set(zip(plan.stage[trained].tolist(), plan.node[trained].tolist(), strict=True)) == {
        (0, 0), (1, 1), (2, 1), (3, 1), (4, 1)
    }  # fmt: skip
    assert schedule().plan(work).digest() != plan.digest()


def test_the_nodes_of_a_grid_own_what_somebody_says_too() -> None:
    plan = SingleLayer(owns=(1, 1)).plan(Work(blocks=2, chapters=2, nodes=4))
    assert plan.digest() == SingleLayer().plan(Work(blocks=2, chapters=2, nodes=4)).digest()


@pytest.mark.parametrize("owns", [(2, 2, 1), (5,), (0, 5), (2, 2), (3, 3), ()])
def test_deals_that_leave_a_stage_out_or_a_node_idle(owns: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"does not deal 5 stages to 2 nodes\n.*--owns 3,2"):
        SingleLayer(owns=owns).plan(Work(blocks=4, chapters=2, nodes=2, head=True))


def test_slow_nodes_of_a_ring_are_used_where_that_ends_sooner() -> None:
    """Half the speed is of no use with 4 blocks: a slow chapter holds up the one behind it. With 12 it is."""
    speeds = (1.0, 1.0, 0.5)
    shallow, deep = (
        np.bincount(AllLayers().plan(Work(blocks=blocks, chapters=100, nodes=3, speeds=speeds)).node, minlength=3)
        for blocks in (4, 12)
    )
    assert shallow[2] == 0
    assert deep[0] == deep[1] == 2 * deep[2]
