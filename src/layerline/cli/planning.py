"""The Run behind `layerline plan`, and the sizes of its data without reading it where they are known."""

from __future__ import annotations

import argparse
import math

from layerline.cli.flags import settings_of
from layerline.cli.output import note
from layerline.cli.resolve import resolve
from layerline.cli.training import load_data
from layerline.data.catalog import published_sizes
from layerline.data.dataset import Dataset, held_out
from layerline.errors import UsageError
from layerline.run import Run
from layerline.runtime.members import join_seconds
from layerline.runtime.own_data import gather
from layerline.runtime.planning import sizes_of
from layerline.schedules.costs import Sizes


def run_and_sizes(arguments: argparse.Namespace) -> tuple[Run, tuple[int, ...], Sizes]:
    """What is planned: the Run, the shape of an example, and the numbers of network and data."""
    run = resolve(arguments.start, arguments.config, settings_of(arguments), note)
    assert isinstance(run, Run)  # streams have a plan of their own: `stream_plan`
    if run.order != "chapters":
        raise UsageError(
            f"{run.preset} trains all blocks on every minibatch, so there are no chapters to plan",
            hint="choose --order chapters",
        )
    known = published_sizes(run.dataset)
    if run.has_own_data:
        own = gather(run, join_seconds())
        known = own.shape, own.num_classes, own.examples
    elif known is None:
        data = load_data(run, arguments)
        assert isinstance(data, Dataset)
        known = data.shape, data.num_classes, len(data.train)
    shape, classes, examples = known
    if run.validation and not run.has_own_data:
        examples -= held_out(examples)
    sizes = sizes_of(run, shape, classes, examples)
    if sizes is None:
        raise UsageError(
            "this run trains modules of your own, whose sizes no file says",
            hint=f"plan it in numbers: layerline plan --blocks N --width W --inputs {math.prod(shape)}",
        )
    return run, shape, sizes
