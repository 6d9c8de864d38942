"""Words for the plan of a stream, or of a method: the legend of its grid, and the blocks of a node."""

from __future__ import annotations

from collections.abc import Sequence

from layerline.schedules.division import Division
from layerline.schedules.replicated import Replicated
from layerline.schedules.stream import Stream


def legend(stream: Stream | Division) -> str:
    """What the cells of the grid mean."""
    if isinstance(stream, Replicated):
        return "1F0: microbatch 0 forward through the network's copy on node 1; B: back through it; U: its update"
    if isinstance(stream, Stream):
        return "1F0: block 1's forward of microbatch 0; B: a loss's gradient through it; U: its update"
    back = "I: back to its input, W: to its weights" if stream.name == "zero-bubble" else "B: back through it"
    return f"1F0: stage 1's forward of microbatch 0; {back}; U: its update"


def in_runs(blocks: Sequence[int]) -> str:
    """Blocks counted from 1: `1–3, 5`."""
    runs: list[list[int]] = []
    for block in blocks:
        if runs and runs[-1][-1] + 1 == block:
            runs[-1].append(block)
        else:
            runs.append([block])
    return ", ".join(str(run[0] + 1) + (f"–{run[-1] + 1}" if len(run) > 1 else "") for run in runs)
