"""A server and its participants, one after the other in this process: the same bits as the torch runtime, whatever is
lost on the way."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerline.run import Run
from layerline.runtime.flower.conductor import Conductor
from layerline.runtime.flower.participant import Participant, finished_model
from layerline.runtime.pipeline import Pipeline
from layerline.runtime.planning import planned
from layerline.runtime.saved import weights_sha256
from layerline.runtime.stop import Stop
from small_runs import LOCAL, small_data, small_run

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
    "averaged, local cross-entropy, int8": AVERAGED | LOCAL | {"codec": {"kind": "int8"}},
}


def federated(tables: dict[str, Any], nodes: int) -> Run:
    return small_run(**({"order": "chapters", "epochs": 5, "chapters": 5, "nodes": nodes} | tables))


class Federation:
    """What runs where; `forgets` says when a participant's process ends, `loses` when an answer is lost, `restarts`
    when the server is gone."""

    def __init__(self, run: Run, folder: Path, draw: random.Random, *, harm: float = 0.0) -> None:
        self.run, self.folder, self.draw, self.harm = run, folder, draw, harm
        self.plan = planned(run, 3)
        self.warm: dict[int, Participant] = {}
        self.conductor = self.start()

    def start(self) -> Conductor:
        self.pipeline = Pipeline(self.run, self.plan, DATA, self.folder / "server", nodes=())
        return Conductor(self.plan, self.pipeline.slots)

    def participant(self, node: int) -> Participant:
        if node not in self.warm:
            self.warm[node] = Participant(self.run, self.plan, DATA, node, self.folder / f"participant-{node}")
        return self.warm[node]

    def harmed(self) -> bool:
        return self.draw.random() < self.harm

    def carry_out(self) -> str:
        while not self.conductor.finished:
            nodes = list(range(self.plan.nodes))
            self.draw.shuffle(nodes)
            for node in nodes:
                order = self.conductor.order(node, holder=node)
                if order is None:
                    continue
                answer = self.participant(node).carry_out(order)
                if self.harmed():
                    self.warm.pop(node).close()
                if self.harmed():
                    self.conductor.withdraw(node)
                elif self.harmed():
                    self.conductor = self.start()
                else:
                    self.conductor.take(node, node, answer)
        for each in self.warm.values():
            each.close()
        return weights_sha256(finished_model(self.pipeline, self.conductor.final()))


def in_one_process(run: Run, folder: Path) -> str:
    pipeline = Pipeline(run, planned(run, 3), DATA, folder)
    pipeline.work(lambda event: None, Stop(), pipeline.here())
    return weights_sha256(pipeline.model())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nodes", [2, 3])
def test_participants_and_a_server_end_with_the_bits_of_the_torch_runtime(
    kind: str, nodes: int, tmp_path: Path
) -> None:
    run = federated(KINDS[kind], nodes)
    expected = in_one_process(run, tmp_path / "torch")
    assert Federation(run, tmp_path, random.Random(0)).carry_out() == expected


@settings(max_examples=12, deadline=None)
@given(kind=st.sampled_from(sorted(KINDS)), seed=st.integers(0, 2**16))
def test_processes_that_end_and_answers_that_are_lost_change_no_bit(
    kind: str, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run, folder = federated(KINDS[kind], 3), tmp_path_factory.mktemp("federation")
    expected = in_one_process(run, folder / "torch")
    assert Federation(run, folder, random.Random(seed), harm=0.3).carry_out() == expected
