"""Pipelines of backprop in time: the bubbles and the memory that their papers have."""

from __future__ import annotations

import pytest

from baselines.test_action_lists import pipelined
from layerline.schedules.costs import World
from layerline.schedules.division import Division, simulate_method
from layerline.schedules.methods import Method
from layerline.schedules.plan import Action, Carries
from layerline.schedules.replicated import Replicated
from layerline.schedules.stream import Mark
from layerline.schedules.stream_costs import StreamCosts
from layerline.schedules.stream_simulate import StreamSimulation

P, M = 4, 8


def costs(blocks: int, unit: float = 1.0) -> StreamCosts:
    """Forward, input gradient and weight gradient take as long; an update takes no time."""
    each = (unit,) * blocks
    return StreamCosts(
        forward=each,
        to_input=each,
        to_weights=each,
        own_loss=(0.0,) * blocks,
        update=(0.0,) * blocks,
        outputs=(1000,) * blocks,
        kept=(100,) * blocks,
        weights=(8,) * blocks,
        moments=(8,) * blocks,
    )


def simulated(division: Division, unit: float = 1.0, steps: int = 1, world: World | None = None) -> StreamSimulation:
    blocks = len({block for blocks in division.owned for block in blocks})
    return simulate_method(division, costs(blocks, unit), world or World(), steps)


def step(method: Method, unit: float = 1.0) -> float:
    return simulated(pipelined(method, P, M), unit).makespan


def test_the_bubble_of_gpipe_and_1f1b() -> None:
    """(p − 1) / (m + p − 1), less what the first stage, whose input has no gradient, does not do."""
    assert step("gpipe") == step("1f1b") == (M + P - 1) * 3 - 1


def test_interleaving_and_splitting_make_it_smaller() -> None:
    """Two stages on a node are half as long each: then a fill of the pipeline is, too."""
    interleaved, zero = step("interleaved-1f1b", 0.5), step("zero-bubble")
    assert step("1f1b") - interleaved == pytest.approx((P - 1) * 3 / 2, abs=1.0)
    assert 3 * M <= zero < interleaved


def test_gpipe_keeps_all_microbatches_and_1f1b_as_many_as_nodes() -> None:
    world = World()
    kept = {
        method: (simulated(pipelined(method, P, M), world=world).begin.memory - 24) % 1000 // 100
        for method in ("gpipe", "1f1b")
    }
    assert kept["gpipe"].tolist() == [M] * P
    assert kept["1f1b"].tolist() == [4, 3, 2, 1]


def test_steps_follow_each_other_as_soon_as_a_node_is_done() -> None:
    one, many = simulated(pipelined("1f1b", 2, 4)), simulated(pipelined("1f1b", 2, 4), steps=1000)
    assert many.step_seconds <= one.makespan
    assert many.makespan == pytest.approx(one.makespan + 999 * many.step_seconds)


def test_edges_of_a_split_backward() -> None:
    division = pipelined("zero-bubble", 2, 2)
    plan, marks = division.plan(2), division.order()
    rows = len(marks)
    last, above = (
        rows + marks.index(Mark(Action.WEIGHT_GRADIENT, 0, 1)),
        rows + marks.index(Mark(Action.INPUT_GRADIENT, 0, 1)),
    )
    forward = rows + marks.index(Mark(Action.FORWARD, 0, 1))
    assert sorted(plan.inputs(last)) == sorted([(forward, Carries.OUTPUTS), (above, Carries.GRADIENTS)])
    assert plan.inputs(forward) == [(marks.index(Mark(Action.UPDATE, 0)), Carries.WEIGHTS)]
    assert plan.streams


def test_data_parallel_is_bound_by_its_gradients() -> None:
    """Two nodes with one of the two microbatches each; a ring sends 2 (N − 1) / N times the weights from every node."""
    division = Replicated(blocks=3, nodes=2, microbatches=1)
    alone = simulated(division, steps=10)
    assert alone.speedup == pytest.approx(2)
    assert alone.link_bytes() == {(0, 1): 10 * 24, (1, 0): 10 * 24}
    slow = simulated(division, steps=10, world=World(bandwidth=24.0))
    assert slow.step_seconds == pytest.approx(alone.step_seconds + 1.0)
