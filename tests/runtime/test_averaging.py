"""Means of a block's copies: by examples or equal, and how little that changes where shards are equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layerline.runtime.averaging import Shares, mean
from layerline.runtime.pipeline import Pipeline
from layerline.runtime.planning import planned
from layerline.runtime.saved import weights_sha256
from layerline.runtime.stop import Stop
from small_runs import small_data, small_run


@given(counts=st.lists(st.integers(1, 60_000), min_size=1, max_size=6), seed=st.integers(0, 2**16))
def test_a_mean_is_what_fedavg_says(counts: list[int], seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    copies = [torch.randn(5, generator=draw) for _ in counts]
    exact = sum(n * copy.double() for n, copy in zip(counts, copies, strict=True)) / sum(counts)
    assert torch.allclose(mean(copies, counts).double(), torch.as_tensor(exact), atol=1e-5)


@given(count=st.integers(1, 60_000), copies=st.integers(1, 6))
def test_equal_shards_give_the_bits_of_equal_weights(count: int, copies: int) -> None:
    plan = planned(averaged(nodes=copies), 3)
    rows = [row for row in range(len(plan)) if plan.stage[row] == 0 and plan.action[row] == 0][:copies]
    assert Shares((count,) * copies).among(plan, rows) == Shares().among(plan, rows) == [1] * copies


def test_counts_of_steps_stay_whole() -> None:
    """Rounding 0.3 + 0.3 + 0.4 down would lose a step each time."""
    assert mean([torch.tensor(7)] * 3, [3, 3, 4]) == 7
    steps = [torch.tensor(17_707.0)] * 4  # Adam's, in float32; times the examples they need more digits than that has
    assert mean(steps, [4294, 13_662, 14_743, 10_040]).float() == 17_707


def averaged(how: str = "examples", **settings: Any) -> Any:
    schedule = {"kind": "federated", "average": True, "mean": how}
    return small_run(**({"order": "chapters", "schedule": schedule, "nodes": 3, "epochs": 3} | settings))


def weights(run: Any, folder: Path, count: int) -> str:
    data = small_data(count=count)
    pipeline = Pipeline(run, planned(run, 3, examples=count), data, folder)
    pipeline.work(lambda event: None, Stop(), pipeline.here())
    return weights_sha256(pipeline.model())


@pytest.mark.parametrize("exchange", ["chapter", "batch"])
@pytest.mark.parametrize(("count", "same"), [(42, True), (43, False)])
def test_how_copies_count_matters_where_shards_are_unequal(
    exchange: str, count: int, same: bool, tmp_path: Path
) -> None:
    found = {how: weights(averaged(how, exchange=exchange), tmp_path / how, count) for how in ("examples", "equal")}
    assert (found["examples"] == found["equal"]) is same
