"""What every node does in a step of PyTorch's pipeline schedules, taken from PyTorch itself.

Problem: a plan shall print and simulate the very lists that `torch.distributed.pipelining` carries out, and it makes
them where there is a process group and a network. Solution: its schedule classes ask their stages for a few numbers
only, so stand-ins that know these are enough. The lists are no public part of PyTorch: all names that may change are in
this file, and where one is gone, an error says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.distributed.pipelining.schedules import (
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
)

from layerline.errors import LayerlineError, UsageError
from layerline.schedules.methods import Method, stages_of
from layerline.schedules.plan import Action
from layerline.schedules.stream import Mark

SCHEDULES: dict[Method, Any] = {
    "gpipe": ScheduleGPipe,
    "1f1b": Schedule1F1B,
    "interleaved-1f1b": ScheduleInterleaved1F1B,
    "zero-bubble": ScheduleInterleavedZeroBubble,
}
SINGLE: tuple[Method, ...] = ("gpipe", "1f1b")
"""Those that are given a stage, not a list of them."""
_ACTIONS = {
    "F": Action.FORWARD,
    "B": Action.BACKWARD,
    "I": Action.INPUT_GRADIENT,
    "W": Action.WEIGHT_GRADIENT,
}
_LEFT_OUT = ("REDUCE_GRAD",)
"""About gradients that several pipelines share: there is one."""


@dataclass
class _Seat:
    """As much of a stage as a schedule asks for before it runs."""

    stage_index: int
    num_stages: int
    group_size: int
    group_rank: int = 0
    submod: None = None
    stage_index_to_group_rank: dict[int, int] = field(default_factory=dict)


def action_lists(method: Method, nodes: int, microbatches: int) -> tuple[tuple[Mark, ...], ...]:
    """The rows of each node, in its order; a mark's `block` is the stage.

    UsageError with PyTorch's own words where it cannot make such a schedule; LayerlineError where it has changed.
    """
    stages = stages_of(method, nodes)
    seats = [_Seat(stage, stages, nodes) for stage in range(0, stages, nodes)]
    try:
        if method in SINGLE:
            found = SCHEDULES[method](seats[0], microbatches)._get_pipeline_order()
        else:
            found = SCHEDULES[method](seats, microbatches).pipeline_order
        return tuple(tuple(_from_zero(_marks(found[node]))) for node in range(nodes))
    except ValueError as error:
        raise UsageError(
            f"--method {method}: {' '.join(str(error).split())}", hint="choose other --microbatches"
        ) from None
    except (AttributeError, KeyError, TypeError) as error:
        raise LayerlineError(
            f"PyTorch {torch.__version__} keeps the actions of its pipeline schedules in another form: {error}",
            hint="use a version that this one was tested with: constraints.txt names it",
        ) from None


def _marks(actions: Iterable[Any]) -> Iterator[Mark]:
    """None is a slot in which a node waits."""
    for action in actions:
        if action is None or action.computation_type.value in _LEFT_OUT:
            continue
        yield Mark(_ACTIONS[action.computation_type.value], int(action.stage_index), int(action.microbatch_index))


def _from_zero(marks: Iterable[Mark]) -> Iterator[Mark]:
    """The forwards of 1F1B's last stage are counted from 1 in the list of PyTorch 2.13 (not so where it runs)."""
    marks = list(marks)
    firsts: dict[int, int] = {}
    for mark in marks:
        if mark.action == Action.FORWARD:
            firsts.setdefault(mark.block, mark.microbatch)
    for mark in marks:
        late = firsts[mark.block] if mark.action == Action.FORWARD else 0
        yield replace(mark, microbatch=mark.microbatch - late)
