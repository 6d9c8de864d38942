"""`layerline plan --method …`: what PyTorch's pipelines and DDP would take, and streams beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import get_args

from layerline.baselines.planning import division_of
from layerline.cli.stream_plan import model_of
from layerline.cli.stream_report import PlannedStream
from layerline.errors import UsageError
from layerline.runtime.stream.model import StreamModel
from layerline.runtime.stream.planning import stream_of
from layerline.schedules.division import simulate_method
from layerline.schedules.methods import Method, owns_stages
from layerline.schedules.stream_compare import by_reach, way_of
from layerline.schedules.stream_costs import StreamCosts
from layerline.schedules.way import Way
from layerline.stream_run import StreamRun

_WHOSE = "PyTorch"


def beside(planned: PlannedStream, model: StreamModel, costed: Callable[[StreamModel], StreamCosts]) -> list[Way]:
    """The method; the others with as many microbatches that these nodes can do; and the same sums by our own plan."""
    run, world, steps = planned.run, planned.world, planned.steps
    shape, classes = model.encoder.shape, len(model.classes)
    ways = [way_of(division_of(model).name, planned.found, _WHOSE)]
    for other in _others(run):
        described = model_of(other, shape, classes)
        try:
            division = division_of(described)
        except UsageError:  # too few blocks
            continue
        found = simulate_method(division, costed(described), world, steps)
        ways.append(way_of(division.name, found, _WHOSE))
    if run.nodes <= model.reach.blocks:
        ours = model_of(run.replace(method=None, microbatches=run.parts), shape, classes)
        costs, note = costed(ours), f"{run.parts} microbatches"
        ways.append(by_reach("stream, reach all", stream_of(ours), costs, world, steps, note))
    return ways


def _others(run: StreamRun) -> Iterator[StreamRun]:
    """The run by every other method that takes its nodes, and microbatches that are as large."""
    for method in get_args(Method):
        each = run.parts // run.nodes if method == "ddp" else run.parts
        if method in ("plain", run.method) or not each or (method == "ddp" and run.speeds):
            continue
        try:
            yield run.replace(method=method, microbatches=each, owns=run.owns if owns_stages(method) else None)
        except UsageError:
            continue
