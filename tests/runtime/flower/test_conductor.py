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
from layerline.runtime.flower.conductor import Conductor
from layerline.runtime.flower.participant import Participant, finished_model, lasting
from layerline.runtime.pipeline import Pipeline
from layerline.runtime.planning import planned
from layerline.runtime.saved import weights_sha256
from layerline.runtime.stop import Stop
from layerline.schedules.plan import Plan
from small_runs import BACKPROP, LOCAL, small_data, small_run

DATA = small_data(count=61)
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


class Federation:
    """A server and its participants. `harm`: how often a process ends, an answer is lost or the server starts again;
    then each participant also has two processes that take turns."""

    def __init__(self, run: Run, folder: Path, draw: random.Random, *, harm: float = 0.0) -> None:
        self.run, self.folder, self.draw, self.harm = run, folder, draw, harm
        self.plan = planned(run, run.block_count)
        self.warm: dict[tuple[int, int], Participant] = {}
        self.conductor = self.start()

    def start(self) -> Conductor:
        self.pipeline = Pipeline(self.run, self.plan, DATA, self.folder / "server", nodes=())
        return Conductor(self.plan, self.pipeline.slots, differences=self.run.codec.kind == "int8")

    def participant(self, node: int, process: int = 0) -> Participant:
        if (node, process) not in self.warm:
            folder = self.folder / f"participant-{node}"
            self.warm[node, process] = Participant(self.run, self.plan, DATA, node, folder)
        return self.warm[node, process]

    def harmed(self) -> bool:
        return self.draw.random() < self.harm

    def carry_out(self, holders: dict[int, int] | None = None) -> str:
        holders = holders or {}
        while not self.conductor.finished:
            nodes = list(range(self.plan.nodes))
            self.draw.shuffle(nodes)
            for node in nodes:
                holder = holders.get(node, node)
                order = self.conductor.order(node, holder)
                if order is None:
                    continue
                process = self.draw.randrange(2) if self.harm else 0
                answer = self.participant(node, process).carry_out(order)
                if self.harmed():
                    self.warm.pop((node, process)).close()
                if self.harmed():
                    self.conductor.withdraw(node)
                elif self.harmed():
                    self.conductor = self.start()
                else:
                    self.conductor.take(node, holder, answer)
        for each in self.warm.values():
            each.close()
        return weights_sha256(finished_model(self.pipeline, self.conductor.plan, self.conductor.final()))


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


def until(federation: Federation, rows: int) -> None:
    """Carry out tasks until so many rows with a lasting result are done."""
    while federation.conductor.done[0] < rows:
        for node in range(federation.plan.nodes):
            order = federation.conductor.order(node, holder=node)
            if order is not None:
                federation.conductor.take(node, node, federation.participant(node).carry_out(order))


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
