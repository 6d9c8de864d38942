"""Every plan of every schedule is valid, and a plan with any one fault is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerline.errors import LayerlineError
from layerline.schedules.all_layers import AllLayers
from layerline.schedules.base import BaseSchedule
from layerline.schedules.plan import Action, Carries, Plan
from layerline.schedules.single_layer import SingleLayer
from layerline.schedules.validate import validate
from layerline.schedules.work import Work
from schedules.plans import plans


@given(made=plans())
@settings(max_examples=300, deadline=None)
def test_every_plan_is_valid(made: tuple[BaseSchedule, Work, Plan]) -> None:
    validate(made[2])


@given(made=plans())
@settings(max_examples=200, deadline=None)
def test_what_every_plan_computes(made: tuple[BaseSchedule, Work, Plan]) -> None:
    """Told row by row, from the definitions, with none of the vectorised checks."""
    _, work, plan = made
    seen: dict[tuple[int, int], set[int]] = {}
    labels_of: dict[tuple[int, int], set[tuple[int, ...]]] = {}
    for row in range(len(plan)):
        action, stage, number = Action(plan.action[row]), int(plan.stage[row]), int(plan.round[row])
        inputs = plan.inputs(row)
        assert all(source < row for source, _ in inputs)
        kinds = {kind: [source for source, carries in inputs if carries == kind] for kind in Carries}
        if action == Action.TRAIN:
            before = seen.get((stage, number - 1), set())
            assert set(kinds[Carries.STATE]) == before
            assert len(before) > 0 or number == 0
            seen.setdefault((stage, number), set()).add(row)
        for source in kinds[Carries.WEIGHTS]:
            assert plan.round[source] == number
            assert plan.action[source] == Action.TRAIN
        for source in kinds[Carries.OUTPUTS]:
            assert (plan.action[source], plan.stage[source]) == (Action.FORWARD, stage - 1)
        if kinds[Carries.LABELS]:
            assert stage == 0
            assert all(plan.chapter[s] < plan.chapter[row] for s in kinds[Carries.LABELS])
            assert all((plan.round[s] + 1) % plan.rounds_per_chapter == 0 for s in kinds[Carries.LABELS])
            images = [range(1000)[plan.part(s, 1000).start : plan.part(s, 1000).stop] for s in kinds[Carries.LABELS]]
            assert sorted(i for part in images for i in part) == list(range(1000))
        if action != Action.NEGATIVES and stage == 0:
            labels_of.setdefault((int(plan.node[row]), number), set()).add(tuple(kinds[Carries.LABELS]))
    rounds = work.rounds(plan.shards)
    assert set(seen) == {(stage, number) for stage in range(work.stages) for number in range(rounds)}
    assert all(len(used) == 1 for used in labels_of.values())  # a node learns and forwards with the same labels


def _edges(plan: Plan, keep: Any, **columns: Any) -> Plan:
    """The plan with only some edges, and other columns for those."""
    keep = np.asarray(keep)
    source, carries = columns.get("source", plan.source)[keep], columns.get("carries", plan.carries)[keep]
    counts = np.bincount(plan.target[keep], minlength=len(plan))
    return replace(plan, source=source, carries=carries, first=np.concatenate([[0], np.cumsum(counts)]))


def _first(plan: Plan, kind: Carries) -> int:
    return int(np.flatnonzero(plan.carries == kind)[-1])


def _without(kind: Carries) -> Callable[[Plan], Plan]:
    return lambda plan: _edges(plan, np.arange(len(plan.source)) != _first(plan, kind))


def _redirected(kind: Carries, by: int) -> Callable[[Plan], Plan]:
    def change(plan: Plan) -> Plan:
        source = plan.source.copy()
        source[_first(plan, kind)] += by
        return _edges(plan, np.ones(len(source), bool), source=source)

    return change


def _column(name: str, row: int, value: int) -> Callable[[Plan], Plan]:
    def change(plan: Plan) -> Plan:
        column = getattr(plan, name).copy()
        column[row] = value
        return replace(plan, **{name: column})

    return change


def _twice(plan: Plan) -> Plan:
    edges = np.sort(np.append(np.arange(len(plan.source)), _first(plan, Carries.WEIGHTS)))
    return _edges(plan, edges)


FAULTS: dict[str, tuple[Callable[[Plan], Plan], str]] = {
    "no state": (_without(Carries.STATE), "has not the state"),
    "no weights": (_without(Carries.WEIGHTS), "has not the weights"),
    "no outputs": (_without(Carries.OUTPUTS), "has not the outputs"),
    "a part of the labels": (_without(Carries.LABELS), "has a part of its labels only"),
    "another block's state": (_redirected(Carries.STATE, 1), "has state from a row that does not give it"),
    "another chapter's weights": (_redirected(Carries.WEIGHTS, -7), "has weights from a row"),
    "another block's outputs": (_redirected(Carries.OUTPUTS, -2), "has outputs from a row"),
    "labels of a block": (_redirected(Carries.LABELS, 3), "has labels from a row"),
    "an input from the future": (_redirected(Carries.WEIGHTS, 99), "needs a row that is not before it"),
    "the same input twice": (_twice, "has the same input twice"),
    "a stage too many": (_column("stage", 0, 5), "has no such stage"),
    "a chapter too late": (_column("round", 0, 9), "is in none of 5 chapters"),
    "a node too many": (_column("node", 0, 3), "is on none of 3 nodes"),
    "a shard too many": (_column("shard", 0, 1), "works on a shard that does not exist"),
    "a slot twice": (_column("round", 0, 1), "is there twice"),
}


@pytest.mark.parametrize(("fault", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_one_fault_is_enough(fault: Callable[[Plan], Plan], message: str) -> None:
    schedule = SingleLayer(ranking="shared", delay=(1, 1, 1))
    plan = schedule.plan(Work(blocks=3, chapters=5, nodes=3, judged=True))
    with pytest.raises(LayerlineError, match=f"the single-layer plan is wrong: row .*{message}"):
        validate(fault(plan))


def test_a_missing_slot_is_named() -> None:
    plan = AllLayers().plan(Work(blocks=2, chapters=1))
    only = replace(plan, **{n: getattr(plan, n)[:2] for n in ("action", "stage", "round", "node", "shard")})
    edges = replace(
        only, first=plan.first[:3], source=plan.source[: plan.first[2]], carries=plan.carries[: plan.first[2]]
    )
    with pytest.raises(LayerlineError, match="it does not train block 2 in chapter 1"):
        validate(edges)


@given(rows=st.integers(0, 200), shares=st.lists(st.floats(0.01, 1), min_size=1, max_size=6))
@settings(deadline=None)
def test_parts_cover_a_shard_once(rows: int, shares: list[float]) -> None:
    plan = SingleLayer().plan(Work(blocks=1, chapters=1))
    count = len(shares)
    cut = replace(
        plan,
        shares=tuple(share / sum(shares) for share in shares),
        action=np.full(count, Action.NEGATIVES, np.uint8),
        shard=np.arange(count, dtype=np.int32),
    )
    assert [i for part in range(count) for i in cut.part(part, rows)] == list(range(rows))
