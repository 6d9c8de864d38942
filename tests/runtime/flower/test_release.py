"""What leaves a participant: within the norm, noised once, and nothing beside it."""

from __future__ import annotations

import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from layerline.errors import LayerlineError
from layerline.run import Run
from layerline.runtime.flower.release import release
from layerline.schedules.plan import Plan
from layerline.transport.link import Incoming
from layerline.transport.message import Wire
from layerline.transport.privacy import Clipped, LocalDp, Open
from runtime.flower.federation_by_hand import Federation, until
from small_runs import small_run

SHAPES = {"block.weight": (7, 5), "block.bias": (7,), "state.mean": (1,)}


def block(seed: int, scale: float = 1.0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(shape, generator=draw) for name, shape in SHAPES.items()}


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensors[name].double().flatten() for name in SHAPES])


@given(seed=st.integers(0, 2**16), scale=st.floats(0, 20), clipping=st.floats(0.01, 50))
@settings(max_examples=30, deadline=None)
def test_a_clipped_update_keeps_its_direction_and_the_norm(seed: int, scale: float, clipping: float) -> None:
    received, update = block(seed), block(seed + 1, scale)
    trained = {name: received[name] + update[name] for name in SHAPES}
    found = release(Clipped(clipping=clipping))
    assert found
    leaves = flat(found(received, trained)) - flat(received)
    whole = flat(trained) - flat(received)
    assert leaves.norm() <= clipping * (1 + 1e-5) + 1e-5
    expected = whole * min(1.0, clipping / max(float(whole.norm()), 1e-30))
    assert torch.allclose(leaves, expected, atol=1e-5)


def test_noise_has_the_deviation_that_it_says_and_is_never_the_same() -> None:
    """Also where somebody has seeded NumPy, and where nothing was learnt."""
    privacy = LocalDp(clipping=0.5, epsilon=0.9)
    received = {"block.weight": torch.ones(300, 300)}
    found = release(privacy)
    assert found
    draws = []
    for _ in range(2):
        np.random.seed(0)
        draws.append(found(received, received)["block.weight"] - 1)
    assert draws[0].dtype == torch.float32
    for draw in draws:
        assert float(draw.std()) == pytest.approx(privacy.deviation, rel=0.02)
    assert abs(float((draws[0] * draws[1]).mean())) < 0.02 * privacy.deviation**2
    assert release(Open()) is None


@pytest.mark.parametrize("privacy", [Clipped(clipping=0.1), LocalDp(clipping=0.1)])
@pytest.mark.parametrize("odd", [float("nan"), float("inf"), float("-inf")])
def test_an_update_without_a_norm_does_not_leave(privacy: Clipped | LocalDp, odd: float) -> None:
    """A server could send a unit with a bias of -inf, which learns nothing and has a finite loss; min(1, C / nan) is 1,
    so all the rest of the block was let out as it was trained."""
    found = release(privacy)
    assert found
    received = {"block.weight": torch.zeros(100), "block.bias": torch.tensor([odd])}
    with pytest.raises(LayerlineError, match="cannot be clipped"):
        found(received, received | {"block.weight": torch.full((100,), 7.0)})


def federated(average: bool) -> Run:
    tables: dict[str, Any] = {"schedule": {"kind": "federated", "average": average}, "send_optimizer_state": False}
    return small_run(order="chapters", epochs=3, chapters=3, nodes=3, **tables)


def blocks_of(federation: Federation, plan: Plan) -> list[tuple[int, dict[str, Tensor]]]:
    """Every block in every answer, with its row."""
    refuse = Wire(b"\0" * 32, 0, "").refuse
    parcels = [parcel for answer in federation.answers for parcel in answer.parcels]
    messages = [parcel.message(plan, "") for parcel in parcels]
    return [(message.key.row, Incoming().decode(message, refuse)) for message in messages]


@pytest.mark.parametrize("average", [False, True], ids=["relay", "averaged"])
def test_a_slot_is_noised_once_however_often_it_is_asked_for(average: bool, tmp_path: Path) -> None:
    """Processes end, answers are lost, the server starts again: who could average draws would be rid of the noise."""
    run = federated(average)
    federation = Federation(run, tmp_path, random.Random(3), harm=0.4, release=release(LocalDp(clipping=0.1)))
    federation.carry_out()
    sent = blocks_of(federation, federation.plan)
    first = all_alike(sent)
    assert len(sent) > len(first)
    assert not any(fact["metrics"] for answer in federation.answers for fact in answer.facts)
    assert all(not name.startswith("optimizer") for _, tensors in sent for name in tensors)


def test_two_processes_that_are_asked_at_once_draw_once(tmp_path: Path) -> None:
    """A server that hands the same task in twice would have two draws of one slot."""
    federation = Federation(federated(True), tmp_path, random.Random(0), release=release(LocalDp(clipping=0.1)))
    order = federation.conductor.order(0, 0)
    assert order
    both = [federation.participant(0, process) for process in range(2)]
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda each: each.carry_out(order), both))
    federation.answers += answers
    assert all(answer.parcels for answer in answers)
    all_alike(blocks_of(federation, federation.plan))


def all_alike(sent: list[tuple[int, dict[str, Tensor]]]) -> dict[int, dict[str, Tensor]]:
    """By row, its block, which is the same whenever and to whomever it was sent."""
    first: dict[int, dict[str, Tensor]] = {}
    for row, tensors in sent:
        before = first.setdefault(row, tensors)
        assert all(torch.equal(before[name], tensors[name]) for name in tensors)
    return first


def test_who_takes_a_node_over_draws_no_noise_for_what_was_sent(tmp_path: Path) -> None:
    federation = Federation(federated(True), tmp_path, random.Random(0), release=release(LocalDp(clipping=0.1)))
    until(federation, 15)
    federation.warm.pop((1, 0)).close()
    shutil.rmtree(tmp_path / "participant-1")
    federation.carry_out(holders={1: 99})
    assert len(all_alike(blocks_of(federation, federation.plan))) == 27


def test_noise_is_in_all_that_leaves_and_never_the_same(tmp_path: Path) -> None:
    run, privacy = federated(average=True), LocalDp(clipping=0.01, epsilon=0.9)
    runs = [Federation(run, tmp_path / str(n), random.Random(0), release=release(privacy)) for n in range(2)]
    for federation in runs:
        federation.carry_out()
    one, other = (dict(blocks_of(federation, federation.plan)) for federation in runs)
    assert one.keys() == other.keys()
    for row, tensors in one.items():
        for name, tensor in tensors.items():
            if tensor.numel() > 30:
                apart = float((tensor - other[row][name]).std())
                assert apart > privacy.deviation  # of two draws: √2 σ, of every number of it


def test_clipped_runs_end_with_the_same_bits_whatever_is_lost(tmp_path: Path) -> None:
    run, clipped = federated(average=True), release(Clipped(clipping=0.05))
    whole = Federation(run, tmp_path / "whole", random.Random(0), release=clipped).carry_out()
    harmed = Federation(run, tmp_path / "harmed", random.Random(1), harm=0.3, release=clipped).carry_out()
    free = Federation(run, tmp_path / "free", random.Random(0)).carry_out()
    assert whole == harmed != free
