"""How far nodes run ahead of each other: bounded, never a deadlock, and no slower for it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerline.schedules.base import BaseSchedule
from layerline.schedules.dff import Dff
from layerline.schedules.lower import messages
from layerline.schedules.plan import Action, Plan
from layerline.schedules.simulate import walk
from layerline.schedules.single_layer import SingleLayer
from layerline.schedules.window import AHEAD, window
from layerline.schedules.work import Work
from schedules.plans import plans


def slot(plan: Plan, row: int) -> str:
    return f"{plan.stage[row] + 1}.{plan.chapter[row] + 1}"


def test_the_edges_of_single_layer() -> None:
    plan = SingleLayer().plan(Work(blocks=3, chapters=6, nodes=3))
    edges = window(plan, messages(plan))
    found = [f"{slot(plan, r)} after {slot(plan, a)}" for r, a in zip(edges.row, edges.after, strict=True)]
    assert sorted(found) == [
        "1.5 after 2.1",
        "1.6 after 2.2",
        "1.6 after 3.1",
        "2.5 after 3.1",
        "2.6 after 3.2",
    ]


@given(plans(), st.data())
@settings(max_examples=60, deadline=None)
def test_nothing_waits_for_ever_and_nobody_runs_ahead(
    made: tuple[BaseSchedule, Work, Plan], data: st.DataObject
) -> None:
    """Whatever rows take: every edge leads onwards, and what is sent waits for its reader in bounded numbers."""
    _, _, plan = made
    sent = messages(plan)
    edges = window(plan, sent)
    assert (edges.after < edges.row).all(), "so one process could carry it out in the plan's order"
    assert (plan.node[edges.after] != plan.node[edges.row]).all()
    assert (plan.action[edges.after] != Action.FORWARD).all()
    draw = np.random.default_rng(data.draw(st.integers(0, 99)))
    seconds = draw.choice([0.0, 0.01, 1.0, 50.0], plan.nodes)[plan.node]
    start, end, _, _ = walk(plan, sent, seconds, np.zeros(len(sent)), 0.0, edges)
    for row, after in zip(edges.row.tolist(), edges.after.tolist(), strict=True):
        assert start[row] >= end[after]
    for sender, reader in set(zip(sent.sender.tolist(), sent.receiver.tolist(), strict=True)):
        mine = np.flatnonzero((plan.node == sender) & (plan.action == Action.TRAIN))
        chapters = np.unique(plan.chapter[mine])
        theirs = np.flatnonzero((plan.node == reader) & (plan.action != Action.FORWARD))
        for at, chapter in enumerate(chapters[AHEAD:]):
            first, before = (int(mine[plan.chapter[mine] == c].min()) for c in (chapter, chapters[at]))
            assert (end[theirs[theirs < before]] <= start[first]).all()


@pytest.mark.parametrize("schedule", [SingleLayer(), SingleLayer(hand_over="activations"), Dff()])
@pytest.mark.parametrize("slow", range(4))
def test_it_costs_nothing(schedule: SingleLayer | Dff, slow: int) -> None:
    """One node is the bottleneck: it never waits for the others, who only do their work later."""
    plan = schedule.plan(Work(blocks=4, chapters=30, nodes=4))
    sent = messages(plan)
    seconds = np.where(plan.node == slow, 3.0, 1.0)
    free, bound = (walk(plan, sent, seconds, np.zeros(len(sent)), 0.0, edges) for edges in (None, window(plan, sent)))
    assert bound[1].max() == free[1].max()
    if slow == 3:
        waiting = [_most_waiting(plan, walked[1], walked[0]) for walked in (free, bound)]
        assert waiting[0] > AHEAD + 4
        assert waiting[1] <= AHEAD + 2


def _most_waiting(plan: Plan, end: np.ndarray, start: np.ndarray) -> int:
    """Results for the last node from the one before it that it has not begun to use, at most."""
    sent = messages(plan)
    link = (sent.sender == 2) & (sent.receiver == 3)
    made, used = np.sort(end[sent.source[link]]), np.sort(start[sent.needed[link]])
    return max(int((made <= moment).sum() - (used < moment).sum()) for moment in made)
