"""What each method would take on some nodes, carried out in thought like the streams beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import get_args

from layerline.baselines.planning import Division, costs_in, division_of
from layerline.errors import UsageError
from layerline.runtime.stream.model import StreamModel
from layerline.schedules.costs import World
from layerline.schedules.methods import Method
from layerline.schedules.stream_costs import StreamCosts
from layerline.schedules.stream_simulate import StreamSimulation, simulate_stream
from layerline.schedules.way import Way
from layerline.stream_run import StreamRun


def simulate_method(division: Division, costs: StreamCosts, world: World, steps: int) -> StreamSimulation:
    """`costs`: of a microbatch in each block."""
    own = costs_in(division, costs)
    return simulate_stream(division, own, world, steps, measured=division.seconds(own))


def way_of(division: Division, found: StreamSimulation, note: str) -> Way:
    """A method for a table."""
    return Way(
        division.name,
        found.makespan,
        found.speedup,
        float(found.utilisation.mean()),
        sum(found.link_bytes().values()),
        int(found.begin.memory.max()),
        note,
    )


def others_that_fit(run: StreamRun) -> Sequence[StreamRun]:
    """The run by every other method that takes its nodes and microbatches."""
    return list(_others(run))


def _others(run: StreamRun) -> Iterator[StreamRun]:
    for method in get_args(Method):
        if method in ("plain", run.method):
            continue
        microbatches = max(1, run.microbatches // run.nodes) if method == "ddp" else run.microbatches
        try:
            yield run.replace(method=method, microbatches=microbatches)
        except UsageError:
            continue


def division_or_none(model: StreamModel) -> Division | None:
    """How the run's method divides its step; None where the network has too few blocks for it."""
    try:
        return division_of(model)
    except UsageError:
        return None
