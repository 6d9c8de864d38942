"""What `layerline plan` says where measured rows would deal the blocks of a stream out otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from layerline.baselines.planning import division_of
from layerline.cli.dealt_stream import dealt_otherwise
from layerline.cli.stream_plan import model_of
from layerline.cli.stream_report import PlannedStream
from layerline.runtime.stream.planning import costs_of, stream_of
from layerline.schedules.costs import Machine, World
from layerline.schedules.division import simulate_method
from layerline.schedules.stream_simulate import simulate_stream
from layerline.stream_run import StreamRun

RUN: dict[str, Any] = {
    "kind": "stream",
    "network": {"kind": "conv", "widths": [4, 4, 4], "classifier": "linear"},
    "nodes": 2,
    "batch_size": 32,
    "microbatches": 2,
}


def said(forward: tuple[float, ...], **settings: Any) -> str | None:
    """Of a run whose blocks were measured to take so long forwards, and next to nothing else."""
    run = StreamRun.from_dict(RUN | settings)
    model, world, steps = model_of(run, (1, 8, 8), 10), World(), 50
    nothing: dict[str, Any] = dict.fromkeys(("to_input", "to_weights", "own_loss", "update"), (1e-6,) * 3)
    costs = replace(costs_of(model, Machine()), forward=forward, **nothing)
    if run.method is None:
        stream = stream_of(model)
        planned = PlannedStream(run, stream, costs, world, steps, "", simulate_stream(stream, costs, world, steps))
    else:
        division = division_of(model)
        planned = PlannedStream(run, division, costs, world, steps, "", simulate_method(division, costs, world, steps))
    return dealt_otherwise(planned, model)


@pytest.mark.parametrize("method", [{}, {"reach": "all"}, {"reach": "all", "method": "gpipe"}])
@pytest.mark.parametrize(
    ("forward", "better", "worse"), [((2.0, 1.0, 1.0), "1,2", "2,1"), ((1.0, 1.0, 2.0), "2,1", "1,2")]
)
def test_the_deal_that_is_faster_is_named(
    forward: tuple[float, ...], better: str, worse: str, method: dict[str, Any]
) -> None:
    owns = {name: tuple(map(int, name.split(","))) for name in (better, worse)}
    sentence = said(forward, owns=owns[worse], **method)
    assert sentence is not None
    assert sentence.startswith("dealt out by what was measured, it would be 1.")
    assert sentence.endswith(f"×: --owns {better}")
    assert said(forward, owns=owns[better], **method) is None


def test_what_is_no_faster_is_not_worth_a_word() -> None:
    assert said((1.0, 1.0, 1.0), owns=(1, 2)) is None
    assert said((1.0, 1.0, 1.0), owns=(2, 1)) is None


@pytest.mark.parametrize("method", ["ddp", "interleaved-1f1b"])
def test_methods_without_a_stage_a_node_have_nothing_to_deal(method: str) -> None:
    network = {"kind": "conv", "widths": [4, 4, 4, 4], "classifier": "linear"}
    run = StreamRun.from_dict(RUN | {"reach": "all", "method": method, "network": network})
    model, world = model_of(run, (1, 8, 8), 10), World()
    division, costs = division_of(model), costs_of(model, Machine())
    planned = PlannedStream(run, division, costs, world, 50, "", simulate_method(division, costs, world, 50))
    assert dealt_otherwise(planned, model) is None
