"""A stream's plan: its pictures, its rules, that it ends, and what it takes.

`1F0` is block 1's forward of microbatch 0, `1B0` the backward, `1B0←2` that of block 2's loss, `1U` the update.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerline.errors import LayerlineError, UsageError
from layerline.schedules.costs import Machine, World
from layerline.schedules.grid import grid
from layerline.schedules.lower import messages
from layerline.schedules.plan import Action, Carries, Plan
from layerline.schedules.reach import Reach
from layerline.schedules.stream import Stream, deal_blocks, loss_of, microbatch_of
from layerline.schedules.stream_costs import BlockSize, StreamCosts, estimate_stream
from layerline.schedules.stream_simulate import simulate_stream
from layerline.schedules.stream_validate import validate_stream
from layerline.schedules.validate import validate
from schedules.test_lower import Nodes

GRIDS: list[tuple[str, tuple[int, int, int, int, int], str]] = [
    (
        "DGL: reach 1, a minibatch at a time",
        (1, 3, 3, 1, 2),
        """
                  1    2    3    4    5    6    7   8
        node 1  1F0  1B0   1U  1F0  1B0   1U
        node 2       2F0  2B0   2U  2F0  2B0   2U
        node 3            3F0  3B0   3U  3F0  3B0  3U
        """,
    ),
    (
        "reach 1, several blocks of a node, microbatches: nothing is kept",
        (1, 4, 2, 2, 1),
        """
                  1    2    3    4    5    6    7    8    9   10   11  12  13
        node 1  1F0  1B0  2F0  2B0  1F1  1B1  2F1  2B1   1U   2U
        node 2                 3F0  3B0  4F0  4B0  3F1  3B1  4F1  4B1  3U  4U
        """,
    ),
    (
        "interlocking: a step takes as long however many nodes there are",
        (2, 4, 4, 1, 2),
        """
                  1    2    3      4      5      6    7    8      9     10     11  12
        node 1  1F0            1B0←2     1U    1F0            1B0←2     1U
        node 2       2F0  2B0         2B0←3     2U  2F0  2B0         2B0←3     2U
        node 3            3F0    3B0         3B0←4   3U  3F0    3B0         3B0←4  3U
        node 4                   4F0    4B0     4U              4F0    4B0     4U
        """,
    ),
    (
        "backprop: 1F1B",
        (3, 3, 3, 4, 1),
        """
                  1    2    3    4    5    6    7    8    9   10   11   12  13
        node 1  1F0  1F1  1F2            1B0  1F3  1B1       1B2       1B3  1U
        node 2       2F0  2F1       2B0  2F2  2B1  2F3  2B2       2B3   2U
        node 3            3F0  3B0  3F1  3B1  3F2  3B2  3F3  3B3   3U
        """,
    ),
    (
        "backprop, two blocks a node",
        (4, 4, 2, 2, 1),
        """
                  1    2    3    4    5    6    7    8    9   10   11   12  13  14
        node 1  1F0  2F0  1F1  2F1            2B0  1B0            2B1  1B1  1U  2U
        node 2            3F0  4F0  4B0  3B0  3F1  4F1  4B1  3B1   3U   4U
        """,
    ),
]


def stream(reach: int, blocks: int, nodes: int, microbatches: int, window: int = 2) -> Stream:
    owned = deal_blocks([1.0] * blocks, nodes)
    return Stream(reach=Reach(blocks, reach), owned=owned, microbatches=microbatches, window=window)


@pytest.mark.parametrize(("shape", "drawn"), [case[1:] for case in GRIDS], ids=[case[0] for case in GRIDS])
def test_the_grid_is_the_one_drawn(shape: tuple[int, int, int, int, int], drawn: str) -> None:
    plan = stream(*shape[:4]).plan(shape[4])
    assert grid(plan, messages(plan), width=200) == dedent(drawn).strip("\n").splitlines()


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    blocks = draw(st.integers(1, 7))
    costs = draw(st.lists(st.floats(0.1, 9), min_size=blocks, max_size=blocks))
    owned = deal_blocks(costs, draw(st.integers(1, blocks)))
    reach = Reach(blocks, draw(st.integers(1, blocks)))
    heads = reach.losses[:-1]
    follows = draw(st.sampled_from([(), tuple((b, b + 1) for b in heads), tuple((b, blocks - 1) for b in heads)]))
    parts, window = draw(st.integers(1, 5)), draw(st.integers(1, 7))
    return Stream(reach=reach, owned=owned, microbatches=parts, window=window, follows=follows)


@given(made=streams(), steps=st.integers(1, 6))
@settings(max_examples=150, deadline=None)
def test_every_plan_is_valid(made: Stream, steps: int) -> None:
    validate_stream(made.plan(steps), made.reach, made.window, made.takers)


@given(made=streams(), capacity=st.sampled_from([0, 1]))
@settings(max_examples=100, deadline=None)
def test_every_plan_ends_however_little_room_its_links_have(made: Stream, capacity: int) -> None:
    plan = made.plan(4)
    nodes = Nodes(plan, messages(plan), capacity)
    nodes.run()
    assert not any(nodes.left)
    assert sorted(nodes.done) == list(range(len(plan)))


@given(made=streams())
@settings(max_examples=100, deadline=None)
def test_what_every_step_computes(made: Stream) -> None:
    """Told row by row: every gradient comes from the loss that the reach names, through every block between."""
    plan, reach = made.plan(2), made.reach
    for row in range(len(plan)):
        if plan.action[row] == Action.UPDATE:
            block = int(plan.stage[row])
            learned = {(int(microbatch_of(plan)[s]), int(loss_of(plan)[s])) for s, _ in plan.inputs(row)}
            assert learned == {(m, loss) for m in range(made.microbatches) for loss in reach.at(block)}
        elif plan.action[row] == Action.BACKWARD:
            at = row
            while loss_of(plan)[at] > plan.stage[at]:  # up to the loss
                (at,) = (source for source, what in plan.inputs(at) if what == Carries.GRADIENTS)
            assert plan.stage[at] == loss_of(plan)[row]
            assert microbatch_of(plan)[at] == microbatch_of(plan)[row]


@given(made=streams())
@settings(max_examples=100, deadline=None)
def test_no_more_microbatches_are_under_way_than_nodes_up_to_the_loss(made: Stream) -> None:
    plan, under_way = made.plan(1), [0] * made.reach.blocks
    left = {(b, m): len(made.reach.at(b)) for b in range(made.reach.blocks) for m in range(made.microbatches)}
    for action, block, part in zip(plan.action, plan.stage, microbatch_of(plan), strict=True):
        if action == Action.FORWARD:
            under_way[block] += 1
            hops = made.node(made.reach.at(block)[-1]) - made.node(block)
            assert under_way[block] <= min(made.microbatches, hops + 1)
        elif action == Action.BACKWARD:
            left[block, part] -= 1
            under_way[block] -= not left[block, part]


BASE = stream(2, 4, 4, 2).plan(3)


def _row(action: Action, block: int = 1, step: int = 1) -> int:
    return int(np.flatnonzero((BASE.action == action) & (BASE.stage == block) & (BASE.chapter == step))[0])


def _with(column: str, row: int, value: int) -> Callable[[], Plan]:
    def made() -> Plan:
        changed = getattr(BASE, column).copy()
        changed[row] = value
        return replace(BASE, **{column: changed})

    return made


def _edge(action: Action) -> int:
    return int(BASE.first[_row(action)])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (_with("action", _row(Action.FORWARD), Action.TRAIN), "is no row of a stream"),
        (_with("stage", _row(Action.FORWARD), 4), "has no such block"),
        (_with("round", _row(Action.UPDATE), 3), "is in none of 3 steps"),
        (_with("node", _row(Action.UPDATE), 2), "is not on its block's node"),
        (_with("shard", _row(Action.BACKWARD), 6), "has a gradient that does not come there"),
        (_with("shard", _row(Action.FORWARD), 1), "is there twice"),
        (_with("round", _row(Action.UPDATE), 2), "is there twice"),
        (_with("source", _edge(Action.FORWARD), len(BASE) - 1), "needs a row that is not before it"),
        (_with("source", _edge(Action.FORWARD), _row(Action.FORWARD, 2, 0)), "from a row that does not give it"),
        (_with("carries", _edge(Action.FORWARD), Carries.STATE), "has an input that no row of a stream takes"),
        (_with("source", _edge(Action.UPDATE), _edge(Action.UPDATE) and _row(Action.BACKWARD, 2)), "does not give it"),
    ],
)
def test_a_fault_is_refused_by_name(wrong: Callable[[], Plan], said: str) -> None:
    with pytest.raises(LayerlineError, match=said):
        validate_stream(wrong(), Reach(4, 2))


def test_a_node_that_nothing_holds_back_is_refused() -> None:
    plan = stream(1, 3, 3, 2).plan(6)
    kept = plan.carries != Carries.TURN
    first = np.concatenate(([0], np.cumsum(np.bincount(plan.target[kept], minlength=len(plan)))))
    free = replace(plan, source=plan.source[kept], carries=plan.carries[kept], first=first)
    with pytest.raises(LayerlineError, match="is more than 2 microbatches ahead of the next node"):
        validate_stream(free, Reach(3, 1))


def test_leave_by_another_microbatch_is_refused() -> None:
    made = stream(1, 3, 3, 4, window=3)
    with pytest.raises(LayerlineError, match="turn from a row that does not give it what it needs"):
        validate_stream(made.plan(4), made.reach, 2)


@given(made=streams(), speeds=st.lists(st.sampled_from([0.1, 0.5, 1.0, 3.0]), min_size=7, max_size=7))
@settings(max_examples=100, deadline=None)
def test_no_more_wait_for_a_slow_node_than_the_window(made: Stream, speeds: list[float]) -> None:
    """However many microbatches a minibatch has: forwards that a node has done, and the next one has not begun."""
    world = World(latency=0.2, speeds=tuple(speeds[: made.nodes]))
    found = simulate_stream(made, costs(made.reach.blocks), world, 12).begin
    forward = found.plan.action == Action.FORWARD
    for blocks in made.owned[:-1]:
        mine, next_one = (forward & (found.plan.stage == block) for block in (blocks.stop - 1, blocks.stop))
        begun = np.sort(found.start[next_one])
        waiting = np.arange(1, len(begun) + 1) - np.searchsorted(begun, np.sort(found.end[mine]), side="right")
        losses = made.reach.crossing(blocks.stop)
        most = made.node(losses[0]) - made.node(blocks.stop) + 2 if losses else made.window
        assert waiting.max() <= most


def test_a_head_waits_for_the_weights_it_follows() -> None:
    """`man` on three nodes: block 1's loss in step 2 comes after block 2's update in step 1; the forward does not."""
    reach = Reach(3, 1)
    made = Stream(reach=reach, owned=(range(1), range(1, 2), range(2, 3)), follows=((0, 1), (1, 2)))
    plan, drawn = (
        made.plan(3),
        """
                  1    2    3    4    5    6    7    8    9   10  11
        node 1  1F0  1B0   1U  1F0  1B0   1U  1F0  1B0   1U
        node 2       2F0  2B0   2U  2F0  2B0   2U  2F0  2B0   2U
        node 3            3F0  3B0   3U  3F0  3B0   3U  3F0  3B0  3U
    """,
    )
    assert grid(plan, messages(plan), width=200) == dedent(drawn).strip("\n").rstrip().splitlines()
    found = simulate_stream(made, costs(3), World(latency=10.0), 10).begin
    update = (found.plan.action == Action.UPDATE) & (found.plan.stage == 1)
    loss = (found.plan.action == Action.BACKWARD) & (found.plan.stage == 0)
    assert (found.start[loss][1:] >= found.end[update][:-1] + 10).all()
    with pytest.raises(LayerlineError, match="has weights from a row that does not give it what it needs"):
        validate_stream(plan, reach)
    with pytest.raises(LayerlineError, match="has not the weights it needs"):
        validate_stream(replace(made, follows=()).plan(3), reach, takers=made.takers)


def test_weights_that_heads_follow_wait_as_weights() -> None:
    """Not as so many outputs of their block: a language model's are scores, many times as large as what travels."""
    made = Stream(reach=Reach(2, 1), owned=(range(1), range(1, 2)), follows=((0, 1),))
    spent = costs(2, kept=(0, 0), outputs=(8, 5000))
    world = World(speeds=(0.1, 1.0), codec=0.5)  # the first node is slow, so they are there before it asks for them
    small, large = (simulate_stream(made, replace(spent, followed=(0, size)), world, 10) for size in (30, 700))
    assert [int(found.activations[0]) for found in (small, large)] == [30, 700]
    assert small.link_bytes()[1, 0] == 9 * 30, "and travel unrounded"


def test_no_chapter_plan() -> None:
    with pytest.raises(LayerlineError, match="belongs to a stream"):
        validate(BASE)


def test_more_nodes_than_blocks() -> None:
    with pytest.raises(UsageError, match="3 nodes for a stream through 2 blocks") as refused:
        deal_blocks([1.0, 1.0], 3)
    assert "--nodes 2" in str(refused.value.hint)


def test_a_fast_node_owns_more() -> None:
    assert deal_blocks([1.0] * 6, 2, (1.0, 2.0)) == (range(2), range(2, 6))


def costs(blocks: int, **changes: Any) -> StreamCosts:
    even = dict.fromkeys(("forward", "to_input", "to_weights", "update"), (1.0,) * blocks)
    numbers = dict.fromkeys(("outputs", "kept", "weights", "moments"), (8,) * blocks)
    return StreamCosts(**{**even, "own_loss": (0.5,) * blocks, **numbers, **changes})


@given(made=streams(), speeds=st.lists(st.sampled_from([0.5, 0.9, 1.0, 2.0]), min_size=7, max_size=7))
@settings(max_examples=60, deadline=None)
def test_the_steps_that_are_added_are_those_that_would_be_simulated(made: Stream, speeds: list[float]) -> None:
    world = World(bandwidth=50.0, latency=0.3, speeds=tuple(speeds[: made.nodes]))
    spent = costs(made.reach.blocks)
    long = simulate_stream(made, spent, world, 300, at_least=300)
    assert simulate_stream(made, spent, world, 300).makespan == pytest.approx(long.makespan, rel=1e-6)


def test_what_a_step_takes() -> None:
    """Reach 1: the slowest node's own work, whatever the others wait for. Backprop: up and down the whole network."""
    local = simulate_stream(stream(1, 4, 4, 1), costs(4), World(), 1000)
    assert local.step_seconds == pytest.approx(1 + 0.5 + 1 + 1)
    assert local.makespan == pytest.approx(3 + 1000 * 3.5)
    whole = simulate_stream(stream(4, 4, 4, 1), costs(4, own_loss=(0, 0, 0, 0.5)), World(), 1000)
    assert whole.step_seconds == pytest.approx(4 + 0.5 + 3 * 2 + 1 + 1)
    assert local.utilisation.mean() > 0.99 > 0.4 > whole.utilisation.mean()
    two, twice = (simulate_stream(stream(2, n, n, 1), costs(n), World(), 100).step_seconds for n in (4, 8))
    assert two == twice < whole.step_seconds


def test_local_learning_keeps_one_microbatch_however_many_there_are() -> None:
    """And 1F1B as many as nodes follow; a faster first node adds no more than the window."""
    world = World(speeds=(4.0, 4.0, 1.0, 1.0))
    local = [simulate_stream(stream(1, 4, 4, m), costs(4), world, 50).activations.max() for m in (2, 8, 32)]
    kept = 8
    assert len(set(local)) == 1
    assert local[0] <= kept * (1 + 2)
    one_at_a_time = [simulate_stream(stream(1, 4, 4, m), costs(4), World(), 50).activations.max() for m in (2, 8, 32)]
    assert len(set(one_at_a_time)) == 1
    backprop = [simulate_stream(stream(4, 4, 4, m), costs(4), World(), 50).activations[0] for m in (2, 8, 32)]
    assert backprop[0] < backprop[1] == backprop[2]
    depth = [simulate_stream(stream(1, n, n, 4), costs(n), World(), 50).activations.max() for n in (2, 4, 8)]
    assert len(set(depth)) == 1


def test_bytes_over_each_link() -> None:
    found = simulate_stream(stream(1, 3, 3, 2), costs(3, outputs=(8, 4, 2)), World(), 10)
    assert found.link_bytes() == {(0, 1): 10 * 2 * 8, (1, 2): 10 * 2 * 4}
    found = simulate_stream(stream(2, 3, 3, 2), costs(3, outputs=(8, 4, 2)), World(codec=0.5, gradients=0.25), 10)
    assert found.link_bytes() == {(0, 1): 80, (1, 2): 40, (1, 0): 40, (2, 1): 20}


def test_the_formula_counts_what_the_reach_asks_for() -> None:
    """Of one head's and one block's cost each: the sum of a step is that of the paper, N + 2 and the head."""
    sizes = [BlockSize(macs=100, parameters=10, output_bytes=4, kept_bytes=8, head_macs=10, head_parameters=5)] * 6
    machine = Machine(arithmetic=2.0, memory=28.0)
    for reach in (1, 2, 3):
        pattern = Reach(6, reach)
        found = estimate_stream(sizes, 3, machine, moments=2, reach=pattern)
        product = 300.0
        middle = reach  # a block in the middle, below which and above which all losses are
        expected = product * (1 + reach - 1 + 1) + 3 * 30.0
        assert found.of_step(pattern, middle, 1) == pytest.approx(expected + 15)
