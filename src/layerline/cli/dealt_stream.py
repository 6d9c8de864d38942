"""What `layerline plan` says where rows that were measured would deal the blocks of a stream out otherwise.

A run's blocks are dealt out by the formula for an assumed machine, or as it says (`--owns`), so that all its processes,
and whoever resumes it, make the same plan: that plan is shown, at the costs that were measured. Where these costs would
balance it better, a sentence says how, and what it is worth.
"""

from __future__ import annotations

from dataclasses import replace

from layerline.cli.stream_report import PlannedStream
from layerline.runtime.stream.model import StreamModel
from layerline.runtime.stream.planning import dealt
from layerline.schedules.division import simulate_method
from layerline.schedules.pipelined import Pipelined
from layerline.schedules.stream import Stream
from layerline.schedules.stream_simulate import simulate_stream

_WORTH = 1.01
"""Times as fast, at least: less is within what measuring differs."""


def dealt_otherwise(planned: PlannedStream, model: StreamModel) -> str | None:
    """The sentence; None where blocks would be dealt out alike, or hardly better."""
    stream, costs, world, steps = planned.stream, planned.costs, planned.world, planned.steps
    if not isinstance(stream, Stream | Pipelined):
        return None
    by_rows = dealt(model, costs)
    if isinstance(stream, Stream):
        found = simulate_stream(replace(stream, owned=by_rows), costs, world, steps)
    elif len(stream.stages) == len(by_rows):
        found = simulate_method(replace(stream, stages=by_rows), costs, world, steps)
    else:  # interleaved
        return None
    if found.speedup < _WORTH * planned.found.speedup:
        return None
    owns = ",".join(str(len(blocks)) for blocks in by_rows)
    return f"dealt out by what was measured, it would be {found.speedup:.2f}×: --owns {owns}"
