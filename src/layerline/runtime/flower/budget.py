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

_DELTA = 0.01
"""Of all blocks together, unless a participant says otherwise: where δ is near 1, ε promises nothing."""
_LIKE = {"max-epsilon": "8.0", "max-delta": "0.001"}


def releases(plan: Plan) -> list[int]:
    """Blocks that each node sends in the whole run."""
    counts: list[int] = np.bincount(plan.node[plan.action == Action.TRAIN], minlength=plan.nodes).tolist()
    return counts


def check_budget(run: Run, plan: Plan, node: int, most: object, most_delta: object = None) -> None:
    """UsageError where a participant would say more of its data than it wants to. `most`: ε of a run; None: any.

    `most_delta`: δ of a run; None: 0.01. Both are for any two sets of data, whatever the run calls sensitivity.
    """
    if most is None and most_delta is None:
        return
    epsilon, delta = _number("max-epsilon", most), _number("max-delta", _DELTA if most_delta is None else most_delta)
    limit = f"this participant takes part up to max-epsilon={epsilon:g} and max-delta={delta:g} only"
    count, privacy = releases(plan)[node], run.privacy
    if not isinstance(privacy, LocalDp):
        raise UsageError(f"{limit}, and the run's blocks have no noise", hint="choose --privacy local-dp")
    if privacy.apart < 2 * privacy.clipping:
        raise UsageError(
            f"{limit}, for any two updates, and noise for a sensitivity of {privacy.apart:g} hides those up to "
            f"{privacy.apart:g} apart",
            hint="leave out --sensitivity",
        )
    if count * privacy.epsilon > epsilon:
        raise UsageError(
            f"{count} blocks with epsilon {privacy.epsilon:g} make {count * privacy.epsilon:g} together, and {limit}",
            hint="choose a smaller --epsilon, or fewer chapters",
        )
    if count * privacy.delta > delta:
        raise UsageError(
            f"{count} blocks with delta {privacy.delta:g} make {count * privacy.delta:g} together, and {limit}",
            hint="choose a smaller --delta, or fewer chapters",
        )


def _number(name: str, value: object) -> float:
    """A limit in a SuperNode's configuration. UsageError where it is none, which would otherwise hold nothing back."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        said = "is missing" if value is None else f"is {value}"
        hint = f"start the SuperNode with {name}={_LIKE[name]}"
        raise UsageError(f"{name} is a number from 0, and {said}", hint=hint)
    return value
