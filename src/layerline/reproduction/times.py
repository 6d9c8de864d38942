"""How long a cell takes and how much faster than Sequential it is: planned, at assumed or at measured slot costs.

What a run of several nodes measured of itself is in its notes: the seconds of every row it carried out. The median of
each kind of row (training a block, bringing the set through it, ranking) is what such a row costs on this machine; the
plan is simulated with these costs, each node on a core of its own.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from layerline.run import Run
from layerline.runtime.planning import planned, sizes_of
from layerline.runtime.slots import Slots
from layerline.schedules.costs import ONE_HOST, Costs, Machine, estimate
from layerline.schedules.plan import Action, Plan
from layerline.schedules.simulate import Simulation, simulate

Shape = tuple[tuple[int, ...], int, int]
"""Of a data set: an example, its classes, the examples in the training set."""


@dataclass(frozen=True)
class Expected:
    """A cell's plan, carried out in thought."""

    found: Simulation
    measured: bool
    """At slot costs that its runs measured; else at those of the cost model."""

    @property
    def speedup(self) -> float:
        """Over Sequential on one node."""
        return self.found.speedup

    def seconds(self, processes: int) -> float:
        """With so many processes at a time: not faster than the plan, nor than the work divided."""
        return max(self.found.makespan, float(self.found.busy.sum()) / processes)


def expected(run: Run, shape: Shape, carried_out: Iterable[tuple[Run, Path]] = ()) -> Expected:
    """The plan of a run. `carried_out`: runs over nodes with the same kinds of rows, and their folders, to take slot
    costs from."""
    sizes = sizes_of(run, *shape)
    assert sizes is not None  # the cells have a network of Linear blocks
    plan = planned(run, len(sizes.units), sizes)
    costs, measured = estimate(sizes, Machine()), False
    if run.is_planned:
        notes = _notes((planned(each, len(sizes.units), sizes), folder) for each, folder in carried_out)
        if notes:
            costs, measured = _measured(notes, plan, costs), True
    return Expected(simulate(plan, costs, replace(ONE_HOST, moments_travel=run.send_optimizer_state)), measured)


def _notes(carried_out: Iterable[tuple[Plan, Path]]) -> dict[tuple[int, int], list[float]]:
    """Seconds of the rows by action and stage, over all runs."""
    notes: dict[tuple[int, int], list[float]] = defaultdict(list)
    for plan, folder in carried_out:
        if not (folder / "slots").is_dir():
            continue
        slots = Slots(folder / "slots", {})
        latest = {each["row"]: each["end"] - each["begin"] for n in range(plan.nodes) for each in slots.told(n)}
        for row, seconds in latest.items():
            notes[int(plan.action[row]), int(plan.stage[row])].append(seconds)
    return dict(notes)


def _measured(notes: dict[tuple[int, int], list[float]], plan: Plan, assumed: Costs) -> Costs:
    """The medians. A kind of row that the plan does not have costs nothing."""

    def median(action: Action, stage: int) -> float:
        return statistics.median(notes.get((action, stage), [0.0]))

    return replace(
        assumed,
        train=tuple(median(Action.TRAIN, stage) for stage in range(plan.stages)),
        forward=tuple(median(Action.FORWARD, block) for block in range(plan.blocks)),
        ranking=median(Action.NEGATIVES, 0),
    )
