"""The table of ready tasks: everything once, in each node's order, never before its inputs; with nodes or without."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from layerline.schedules.federated import Federated
from layerline.schedules.plan import Carries, Plan
from layerline.schedules.ready import Ready, Task
from layerline.schedules.without import rest_of, without
from layerline.schedules.work import Work


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    nodes = draw(st.integers(1, 4))
    work = Work(
        blocks=draw(st.integers(1, 4)),
        chapters=draw(st.integers(nodes, 7)),
        nodes=nodes,
        head=draw(st.booleans()),
        judged=draw(st.booleans()),
    )
    return Federated(average=draw(st.booleans())).plan(work)


def drained(table: Ready, choose: st.DataObject, most: int | None = None, before: Iterable[int] = ()) -> list[int]:
    """The rows in the order in which they end, whoever is quicker; until so many are done. `before`: done already."""
    plan, done, busy, there = table.plan, list[int](), dict[int, Task](), set(before)
    while not table.finished and (most is None or len(done) < most):
        for node in range(plan.nodes):
            task = table.next(node) if node not in busy else None
            if task is not None:
                assert all(int(table.sent.source[message]) in there for message in task.messages)
                busy[node] = task
        node = choose.draw(st.sampled_from(sorted(busy)))
        task = busy.pop(node)
        table.finish(task)
        done += task.rows
        there |= set(task.rows)
    return done


@settings(max_examples=60, deadline=None)
@given(plan=plans(), choose=st.data())
def test_every_row_is_handed_out_once_and_after_its_inputs(plan: Plan, choose: st.DataObject) -> None:
    done = drained(Ready(plan, range(len(plan))), choose)
    assert sorted(done) == list(range(len(plan)))
    place = {row: at for at, row in enumerate(done)}
    assert all(place[source] < place[row] for row in range(len(plan)) for source, _ in plan.inputs(row))


@settings(max_examples=60, deadline=None)
@given(plan=plans(), choose=st.data())
def test_the_rest_can_be_done_whichever_nodes_are_lost(plan: Plan, choose: st.DataObject) -> None:
    done = drained(Ready(plan, range(len(plan))), choose, choose.draw(st.integers(0, len(plan))))
    lost = choose.draw(st.sets(st.integers(0, plan.nodes - 1), max_size=plan.nodes - 1))
    left = plan
    for node in sorted(lost):
        left = without(left, rest_of(left, node, [row for row in done if plan.node[row] == node]))
    todo = set(range(len(plan))) - set(done) - left.gone
    rest = drained(Ready(left, todo), choose, before=done)
    assert set(rest) == todo
    assert left.digest() == plan.digest()
    assert not any(source in left.gone for row in todo for source, _ in left.inputs(row))


def test_a_ring_closes_over_a_lost_node_and_a_mean_is_of_those_left() -> None:
    relay = Federated().plan(Work(blocks=1, chapters=4, nodes=2))
    assert relay.node.tolist() == [0, 1, 0, 1]
    left = without(relay, rest_of(relay, 1, []))
    assert left.gone == {1, 3}
    assert left.inputs(2) == [(0, Carries.STATE)]  # and not from row 1, which nobody does
    mean = Federated(average=True).plan(Work(blocks=1, chapters=2, nodes=3))
    left = without(mean, rest_of(mean, 1, [1]))
    assert [left.inputs(row) for row in (3, 5)] == [[(source, Carries.STATE) for source in (0, 1, 2)]] * 2
    left = without(mean, rest_of(mean, 1, []))
    assert [left.inputs(row) for row in (3, 5)] == [[(0, Carries.STATE), (2, Carries.STATE)]] * 2
    assert np.array_equal(left.node, mean.node)
