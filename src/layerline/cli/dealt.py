"""What `layerline plan` says where slot costs deal work out otherwise than `layerline train` would.

Problem: a plan at measured costs is balanced by them, but a run deals its work out by the formula for an assumed
machine, so that all its processes, and whoever resumes it, make the same plan. Solution: say what the run's own plan
would take at these costs, and the flag that makes this one of it.
"""

from __future__ import annotations

import numpy as np

from layerline.cli.plan_report import Planned
from layerline.run import Run
from layerline.schedules.costs import Machine, Sizes, estimate
from layerline.schedules.dff import Dff
from layerline.schedules.plan import Action, Plan
from layerline.schedules.simulate import simulate
from layerline.schedules.single_layer import SingleLayer


def trained_otherwise(run: Run, sizes: Sizes, planned: Planned) -> str | None:
    """A sentence where the run would deal its work out otherwise; None where it would not."""
    shown = planned.found
    own = run.schedule.plan(estimate(sizes, Machine()).work(planned.work))
    if own.digest() == shown.plan.digest():
        return None
    takes = simulate(own, planned.costs, planned.world)
    said = f"this is dealt out by these costs, {shown.speedup:.2f}×; a run is by the formula, {takes.speedup:.2f}×"
    owns = owned(shown.plan)
    if isinstance(run.schedule, SingleLayer | Dff) and owns != owned(own):
        said += f" (to train this one: --owns {','.join(map(str, owns))})"
    return said


def owned(plan: Plan) -> list[int]:
    """How many stages each node of a column owns, where nodes own stages."""
    trained = plan.action == Action.TRAIN
    pairs = np.unique(np.stack([plan.node[trained], plan.stage[trained]]), axis=1)
    counts: list[int] = np.bincount(pairs[0])[:: plan.shards].tolist()
    return counts
