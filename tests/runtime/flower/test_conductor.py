"""A server and its participants, one after the other in this process: the same bits as the torch runtime, whatever is
lost on the way."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerline.errors import LayerlineError, MessageRefused
from layerline.run import Run
from layerline.runtime.flower.participant import lasting
from layerline.runtime.pipeline import Pipeline
from layerline.runtime.planning import planned
from layerline.runtime.saved import weights_sha256
from layerline.runtime.stop import Stop
from layerline.schedules.plan import Plan
from runtime.flower.federation_by_hand import DATA, Federation, until
from small_runs import BACKPROP, LOCAL, small_run

RELAY: dict[str, Any] = {"schedule": {"kind": "federated"}, "shards": {"kind": "dirichlet", "concentration": 1.0}}
AVERAGED: dict[str, Any] = {"schedule": {"kind": "federated", "average": True}}
KINDS: dict[str, dict[str, Any]] = {
    "relay": RELAY,
    "relay, moments stay": RELAY | {"send_optimizer_state": False},
    "relay, adaptive, head": RELAY | {"negatives": {"kind": "adaptive"}, "readout": {"kind": "softmax"}},
    "relay, bf16": RELAY | {"codec": {"kind": "bf16"}},
    "relay, int8": RELAY | {"codec": {"kind": "int8"}},
    "averaged": AVERAGED,
    "averaged, backprop": AVERAGED | BACKPROP,
    "averaged, local cross-entropy, int8": AVERAGED | LOCAL | {"codec": {"kind": "int8"}},
}


def federated(tables: dict[str, Any], nodes: int) -> Run:
    return small_run(**({"order": "chapters", "epochs": 5, "chapters": 5, "nodes": nodes} | tables))


def in_one_process(run: Run, folder: Path, plan: Plan | None = None) -> str:
    pipeline = Pipeline(run, plan or planned(run, run.block_count), DATA, folder)
    pipeline.work(lambda event: None, Stop(), pipeline.here())
    return weights_sha256(pipeline.model())


@pytest.mark.parametrize(("kind", "nodes"), [*((kind, 3) for kind in KINDS), ("relay", 2), ("averaged", 2)])
def test_participants_and_a_server_end_with_the_bits_of_the_torch_runtime(
    kind: str, nodes: int, tmp_path: Path
) -> None:
    run = federated(KINDS[kind], nodes)
    expected = in_one_process(run, tmp_path / "torch")
    assert Federation(run, tmp_path, random.Random(0)).carry_out() == expected


@settings(max_examples=8, deadline=None)
@given(kind=st.sampled_from(sorted(KINDS)), seed=st.integers(0, 2**16))
def test_processes_that_end_and_answers_that_are_lost_change_no_bit(
    kind: str, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run, folder = federated(KINDS[kind], 3), tmp_path_factory.mktemp("federation")
    expected = in_one_process(run, folder / "torch")
    assert Federation(run, folder, random.Random(seed), harm=0.3).carry_out() == expected


LOSSLESS = [kind for kind in KINDS if "int8" not in kind]


@pytest.mark.parametrize(("kind", "rows"), [*((kind, 8) for kind in LOSSLESS), ("relay", 3), ("averaged", 3)])
def test_another_holder_of_the_data_takes_a_node_over(kind: str, rows: int, tmp_path: Path) -> None:
    """Where all that counts travels, not a bit is lost with the first one."""
    run = federated(KINDS[kind], 3)
    federation = Federation(run, tmp_path, random.Random(0))
    until(federation, rows)
    federation.warm.pop((1, 0)).close()
    shutil.rmtree(tmp_path / "participant-1")
    weights = federation.carry_out(holders={1: 99})
    if kind in ("relay", "averaged"):
        assert weights == in_one_process(run, tmp_path / "torch")


@pytest.mark.parametrize(("kind", "rows"), [*((kind, 7) for kind in LOSSLESS), ("relay", 0)])
def test_a_plan_goes_on_without_a_lost_node(kind: str, rows: int, tmp_path: Path) -> None:
    run = federated(KINDS[kind], 3)
    federation = Federation(run, tmp_path, random.Random(0))
    until(federation, rows)
    federation.conductor.leave_out(1)
    federation.conductor = federation.start()  # it is on disk, too
    left = federation.conductor.plan
    weights = federation.carry_out()
    assert left.gone
    assert federation.conductor.done[0] == len(lasting_rows(left))
    assert weights == in_one_process(run, tmp_path / "torch", left)
    assert weights != in_one_process(run, tmp_path / "whole")


def lasting_rows(plan: Plan) -> set[int]:
    return {row for rows in lasting(plan) for row in rows} - plan.gone


def test_differences_cannot_go_on_without_a_node(tmp_path: Path) -> None:
    federation = Federation(federated(KINDS["relay, int8"], 3), tmp_path, random.Random(0))
    with pytest.raises(LayerlineError, match="node 2"):
        federation.conductor.leave_out(1)


def test_messages_of_another_plan_are_refused(tmp_path: Path) -> None:
    run = federated(RELAY, 2)
    federation = Federation(run, tmp_path / "here", random.Random(0))
    other = Federation(federated(RELAY, 3), tmp_path / "there", random.Random(0))
    order, theirs = federation.conductor.order(0, 0), other.conductor.order(0, 0)
    assert order is not None
    assert theirs is not None
    with pytest.raises(MessageRefused, match="another plan"):
        federation.conductor.take(0, 0, other.participant(0).carry_out(theirs))
