"""How much all blocks of a participant together may say of its data, where each has noise of its own.

K blocks, each (ε, δ)-private, are (K·ε, K·δ)-private together (Dwork and Roth, Theorem 3.16). That is the simplest
bound, not the closest. A run's plan says how many blocks a node will send, so it is known before anything is trained.
"""

from __future__ import annotations

import numpy as np

from layerline.errors import UsageError
from layerline.run import Run
from layerline.schedules.plan import Action, Plan
from layerline.transport.privacy import LocalDp


def releases(plan: Plan) -> list[int]:
    """Blocks that each node sends in the whole run."""
    counts: list[int] = np.bincount(plan.node[plan.action == Action.TRAIN], minlength=plan.nodes).tolist()
    return counts


def check_budget(run: Run, plan: Plan, node: int, most: object) -> None:
    """UsageError where a participant would say more of its data than it wants to. `most`: ε of a run; None: any."""
    if most is None:
        return
    if isinstance(most, bool) or not isinstance(most, int | float):
        raise UsageError(f"max-epsilon is a number, got {most}", hint="start the SuperNode with max-epsilon=8.0")
    if not isinstance(run.privacy, LocalDp):
        raise UsageError(
            f"this participant takes part up to max-epsilon={most:g} only, and the run's blocks have no noise",
            hint="choose --privacy local-dp",
        )
    total = releases(plan)[node] * run.privacy.epsilon
    if total > most:
        raise UsageError(
            f"{releases(plan)[node]} blocks with epsilon {run.privacy.epsilon:g} make {total:g} together, and this "
            f"participant takes part up to max-epsilon={most:g} only",
            hint="choose a smaller --epsilon, or fewer chapters",
        )
