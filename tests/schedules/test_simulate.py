"""Plans in time: the paper's ideal numbers, hand-worked small cases, and what must hold for every plan."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerline.schedules.all_layers import AllLayers
from layerline.schedules.base import BaseSchedule
from layerline.schedules.costs import Costs, Machine, Sizes, World, estimate, even
from layerline.schedules.federated import Federated
from layerline.schedules.limits import limits
from layerline.schedules.lower import messages
from layerline.schedules.plan import Action, Carries, Plan
from layerline.schedules.sequential import Sequential
from layerline.schedules.simulate import Simulation, simulate
from layerline.schedules.single_layer import SingleLayer
from layerline.schedules.work import Work
from schedules.plans import plans

SLOTS_ONLY = Costs(
    train=(1.0,) * 4, forward=(0.0,) * 4, ranking=0.0,
    weights=(0,) * 4, moments=(0,) * 4, outputs=(0,) * 4, labels=0, data=0,
)  # fmt: skip
PAPER = Sizes(inputs=784, units=(2000,) * 4, classes=10, examples=60_000, batch=64, number_bytes=4)
MEASURED_ONCE = Costs(
    train=(2.1, 5.25, 5.25, 5.25), forward=(0.7, 1.8, 1.8, 1.8), ranking=27.7,
    weights=(6_280_000, *[16_000_000] * 3), moments=(12_560_000, *[32_000_000] * 3), outputs=(480_000_000,) * 4,
    labels=480_000, data=47_000_000,
)  # fmt: skip
"""The paper's network on one thread: measured seconds, and ranking ten views of every image reckoned from them."""


def _plan(schedule: BaseSchedule, costs: Costs = SLOTS_ONLY, **work: object) -> tuple[Work, Simulation]:
    asked = costs.work(Work(**{"blocks": 4, "chapters": 100, "nodes": 4} | work))  # type: ignore[arg-type]
    return asked, simulate(schedule.plan(asked), costs, World(speeds=asked.speeds))


@pytest.mark.parametrize("schedule", [SingleLayer(), AllLayers()])
def test_the_papers_ideal_speedup(schedule: BaseSchedule) -> None:
    """S·L/N + N − 1 = 103 slots for 400 of work (methods: 3.883)."""
    _, found = _plan(schedule)
    assert found.makespan == 103
    assert found.speedup == pytest.approx(400 / 103)
    assert found.utilisation.tolist() == pytest.approx([100 / 103] * 4)
    assert found.idle.tolist() == pytest.approx([3.0] * 4)


def test_two_nodes_at_twenty_chapters() -> None:
    """What 1.95 times as fast with two nodes comes from: 40 slots a node, and one to fill."""
    _, found = _plan(AllLayers(), chapters=20, nodes=2)
    assert found.makespan == 41
    assert found.speedup == pytest.approx(80 / 41)


def test_messages_leave_when_a_row_ends_one_after_the_other() -> None:
    """Node 1 trains for 2 s, then forwards for 1 s; a state takes 1 s to send and 0.5 s to travel.

    node 1  |train 1 2 s|fwd 1 s|train 2 2 s|              state of block 1 leaves at 2 and is there at 3.5
    node 2               3.5 |train 1|fwd|  train 2        state of block 2 leaves at 5, is there at 6.5
    """
    costs = Costs(train=(2.0, 2.0), forward=(1.0, 1.0), ranking=0.0, weights=(10, 10), moments=(20, 20),
                  outputs=(0, 0), labels=0, data=0)  # fmt: skip
    plan = AllLayers().plan(Work(blocks=2, chapters=2, nodes=2))
    found = simulate(plan, costs, World(bandwidth=30.0, latency=0.5))
    assert found.start.tolist() == [0, 2, 3, 3.5, 5.5, 6.5]
    assert found.bytes.tolist() == [30, 30]
    assert found.leave.tolist() == [2, 5]
    weights = simulate(plan, costs, World(bandwidth=30.0, latency=0.5, moments_travel=False, codec=0.5))
    assert weights.bytes.tolist() == [5, 5]
    assert weights.link_bytes() == {(0, 1): 10}


def test_sends_of_a_node_share_its_card() -> None:
    """Single-Layer sends block 1 to nodes 2 and 3: the second message waits for the first."""
    costs = Costs(train=(1.0,) * 3, forward=(0.0,) * 3, ranking=0.0, weights=(4,) * 3, moments=(0,) * 3,
                  outputs=(0,) * 3, labels=0, data=0)  # fmt: skip
    found = simulate(SingleLayer().plan(Work(blocks=3, chapters=1, nodes=3)), costs, World(bandwidth=4.0))
    sent = found.messages
    from_1 = [(int(r), float(le)) for s, r, le in zip(sent.sender, sent.receiver, found.leave, strict=True) if s == 0]
    assert from_1 == [(1, 1.0), (2, 2.0)]


def test_traffic_of_all_layers_is_the_networks_parameters() -> None:
    """54.3 MB a chapter in float32, and three times that with Adam's moments."""
    costs = estimate(PAPER, Machine())
    plan = AllLayers().plan(Work(blocks=4, chapters=100, nodes=4))
    found = simulate(plan, costs, World(moments_travel=False))
    assert found.bytes.sum() / 99 == pytest.approx(54.3e6, rel=2e-3)
    with_moments = simulate(plan, costs, World())
    assert with_moments.bytes.sum() == 3 * found.bytes.sum()


def test_activations_are_960_megabytes_a_boundary() -> None:
    found = _plan(SingleLayer(hand_over="activations"), estimate(PAPER, Machine()))[1]
    outputs = found.messages.carries == Carries.OUTPUTS
    assert set(found.bytes[outputs].tolist()) == {960_000_000}


def test_remedies_of_single_layer_at_measured_slot_costs() -> None:
    """The last node forwards through three blocks and ranks all labels; both can be helped."""
    costs = MEASURED_ONCE
    work = costs.work(Work(blocks=4, chapters=100, nodes=4, judged=True))
    host = World(bandwidth=3.5e9, latency=1e-4)
    published = SingleLayer()
    found = simulate(published.plan(work), costs, host)
    assert found.speedup < 1.5
    said = limits(published, work, costs, host, found)
    assert "node 4" in said
    assert "27.1 s ranking labels" in said
    assert "4.3 s bringing the set through 3 blocks" in said
    assert "--hand-over activations --ranking shared would give" in said
    helped = SingleLayer(hand_over="activations", ranking="shared")
    assert simulate(helped.plan(work), costs, host).speedup >= 3.5
    assert simulate(SingleLayer(ranking="shared").plan(work), costs, host).speedup >= 3.5


def test_random_negatives_need_no_ranking() -> None:
    """Only the forward passes limit it then: 9.55 s of 22.15 at the last node."""
    costs = MEASURED_ONCE
    work, found = _plan(SingleLayer(), costs)
    assert found.busy[3] == pytest.approx(955)
    assert found.speedup == pytest.approx(22.15 / 9.55, rel=0.02)
    assert "--hand-over activations would give 3" in limits(SingleLayer(), work, costs, World(), found)


def test_slow_nodes_hold_nobody_up() -> None:
    """Leaving a very slow node out is at least as good as using it."""
    for speeds in [(1.0, 1.0, 0.5), (1.0, 1.0, 1.0, 0.05), (2.0, 1.0)]:
        work, found = _plan(AllLayers(), nodes=len(speeds), speeds=speeds, chapters=40)
        fast = [s for s in speeds if s == max(speeds)]
        _, without = _plan(AllLayers(), nodes=len(fast), speeds=tuple(fast), chapters=40)
        assert found.makespan <= without.makespan + 1e-9
        assert work.speeds == speeds


def test_memory_of_the_first_node_of_single_layer() -> None:
    """The set and its labels, the block with its moments, and the gradient."""
    costs = Costs(train=(1.0,) * 2, forward=(1.0,) * 2, ranking=0.0, weights=(100, 10_000), moments=(200, 20_000),
                  outputs=(10**6, 10**6), labels=7, data=1000)  # fmt: skip
    plan = SingleLayer().plan(Work(blocks=2, chapters=5, nodes=2))
    memory = simulate(plan, costs, World()).memory.tolist()
    assert memory[0] == 1007 + 100 + 200 + 100
    # Node 2 holds its own block and the outputs of block 1; the received block is gone by then.
    assert memory[1] == 1007 + 10_000 + 20_000 + 10**6 + 10_000


def test_private_data_is_held_in_parts() -> None:
    costs = Costs(
        train=(1.0,), forward=(0.0,), ranking=0.0, weights=(0,), moments=(0,), outputs=(0,), labels=0, data=1000
    )
    found = simulate(Federated().plan(Work(blocks=1, chapters=4, nodes=4)), costs, World())
    assert found.memory.tolist() == [250] * 4
    assert found.makespan == pytest.approx(1.0)  # four chapters, each over a quarter of the images
    assert found.sequential == pytest.approx(1.0)


@given(made=plans(), bandwidth=st.sampled_from([math.inf, 10.0]), latency=st.floats(0, 3))
@settings(max_examples=150, deadline=None)
def test_every_plan_in_time(made: tuple[BaseSchedule, Work, Plan], bandwidth: float, latency: float) -> None:
    _, work, plan = made
    costs = even(work)
    world = World(bandwidth=bandwidth, latency=latency, speeds=work.speeds)
    found = simulate(plan, costs, world)
    sent = messages(plan)
    for node in range(plan.nodes):
        own = np.flatnonzero(plan.node == node)
        assert (found.start[own[1:]] >= found.end[own[:-1]] - 1e-9).all()
    assert (found.leave >= found.end[sent.source] - 1e-9).all()
    assert (found.start[sent.needed] >= found.arrive - 1e-9).all()
    assert (found.busy <= found.makespan + 1e-6).all()
    speeds = np.array(work.speeds)
    total = found.seconds * speeds[plan.node]
    assert found.makespan * speeds.sum() >= total.sum() - 1e-6
    free = simulate(plan, costs, World(speeds=work.speeds))
    assert free.makespan <= found.makespan + 1e-6
    train = plan.action == Action.TRAIN
    assert total[train].sum() == pytest.approx(
        sum(work.train) * work.chapters * np.count_nonzero(train) / plan.shards / work.stages / plan.rounds
    )


def test_one_node_alone_is_said_to_be_so() -> None:
    work, found = _plan(Sequential(), nodes=1)
    assert limits(Sequential(), work, SLOTS_ONLY, World(), found).startswith("One node does it all: 4 s a chapter")


def test_slow_links_are_said_to_limit() -> None:
    costs = estimate(PAPER, Machine())
    work = costs.work(Work(blocks=4, chapters=20, nodes=4))
    world = World(bandwidth=1e6)
    found = simulate(AllLayers().plan(work), costs, world)
    assert limits(AllLayers(), work, costs, world, found).startswith("Links hold it up: messages that cost nothing")
