"""Options of runs over nodes, pairwise: every value of one with every value of another, in some run.

All together would be eight thousand runs. Most faults need two options at once, so every two values meet in one of some
forty. Each ends with the bits of an undisturbed run when it is stopped on its way, and with those of Sequential
training where theory says so (docs/explanation/exactness.md).
"""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from layerline.run import Run
from layerline.schedules.base import unused_nodes
from runtime.test_pipeline import (
    ALL_LAYERS,
    DATA,
    DFF,
    FEDERATED,
    HANDED_OVER,
    JUDGED,
    SHARED_RANKING,
    SINGLE_LAYER,
    SOFTMAX,
    UNJUDGED,
    carry_out,
    plan_of,
    planned,
)
from small_runs import train_through

Choice = tuple[Any, ...]

SCHEDULES: dict[str, dict[str, Any]] = {
    "all-layers": ALL_LAYERS,
    "single-layer": SINGLE_LAYER,
    "handed over": HANDED_OVER,
    "ranking shared": SHARED_RANKING,
    "dff": DFF,
    "federated": FEDERATED,
    "averaged": {"schedule": {"kind": "federated", "average": True}},
}
RULES = {name: table for name, table in (UNJUDGED | JUDGED).items() if "softmax" not in name}
OPTIONS: dict[str, list[Any]] = {
    "schedule": list(SCHEDULES),
    "rule": list(RULES),
    "readout": ["its own", "softmax"],
    "codec": ["fp32", "bf16", "int8"],
    "moments": ["travel", "stay"],
    "nodes": [1, 2, 3, 6],
    "speeds": ["equal", "unequal"],
}


def run_of(choice: Choice) -> Run:
    """The run of one value for each option."""
    schedule, rule, readout, codec, moments, nodes, speeds = choice
    return planned(
        RULES[rule],
        SCHEDULES[schedule],
        SOFTMAX if readout == "softmax" else {},
        epochs=6,
        chapters=6,
        nodes=nodes,
        codec={"kind": codec},
        send_optimizer_state=moments == "travel",
        speeds=(*[1.0] * (nodes - 1), 0.7) if speeds == "unequal" else (),
    )


def pairs_of(choice: Choice) -> set[tuple[tuple[int, Any], ...]]:
    """Every two values of it, with the numbers of their options."""
    return set(itertools.combinations(enumerate(choice), 2))


ALL_PAIRS = {
    ((i, a), (j, b))
    for (i, some), (j, others) in itertools.combinations(enumerate(OPTIONS.values()), 2)
    for a in some
    for b in others
}


def chosen() -> list[Choice]:
    """Choices that have every pair: of some drawn to have a missing one, the one that brings most others."""
    draw, left, found = random.Random(0), set(ALL_PAIRS), []
    while left:
        wanted = dict(draw.choice(sorted(left, key=str)))
        drawn = (
            tuple(wanted.get(number, draw.choice(values)) for number, values in enumerate(OPTIONS.values()))
            for _ in range(200)
        )
        able = itertools.islice((one for one in drawn if not unused_nodes(plan_of(run_of(one)))), 12)
        best = max(able, key=lambda one: len(pairs_of(one) & left))
        found.append(best)
        left -= pairs_of(best)
    return found


CHOSEN = chosen()


def is_sequential(run: Run) -> bool:
    """Whether theory says that it is the same computation as Sequential training."""
    if run.nodes == 1:
        return not getattr(run.schedule, "average", False)
    lossless, one_set = run.codec.kind == "fp32", plan_of(run).shards == 1
    states_go_round = run.schedule.kind in ("all-layers", "federated")
    return lossless and one_set and not run.judged and (run.send_optimizer_state or not states_go_round)


def test_every_two_values_meet() -> None:
    assert set().union(*map(pairs_of, CHOSEN)) == ALL_PAIRS
    assert len(CHOSEN) <= 50


@pytest.mark.parametrize("choice", CHOSEN, ids=lambda choice: ", ".join(map(str, choice)))
def test_the_bits_are_those_of_the_plan(choice: Choice, tmp_path: Path) -> None:
    run = run_of(choice)
    undisturbed = carry_out(run, tmp_path / "undisturbed")
    assert carry_out(run, tmp_path / "stopped", [7, 11]) == undisturbed
    if is_sequential(run):
        alone = run.replace(schedule={"kind": "sequential"}, nodes=1, speeds=(), codec={"kind": "fp32"})
        assert train_through(alone, DATA, []).sha256 == undisturbed
