"""What went wrong, why, and what to do next.

Every error a user can cause is a `LayerlineError`: one sentence with the cause, one hint with the next command to
run, and the exit status the command line ends with. Anything else that escapes is a bug and may show a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LayerlineError(Exception):
    """A run failed for a reason the user can act on (exit status 1)."""

    exit_status = 1

    def __init__(self, what: str, *, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return self.what if self.hint is None else f"{self.what}\n  {self.hint}"


class UsageError(LayerlineError):
    """The request itself is wrong: a flag, a setting, a name (exit status 2)."""

    exit_status = 2


class DataError(LayerlineError):
    """A data set is missing, damaged or not what it says it is."""


class CheckpointError(LayerlineError):
    """A checkpoint or a saved model is damaged, incomplete or belongs to another run."""


class PeerLost(LayerlineError):
    """Another process of the run was killed, has stopped, ended too early or never came (exit status 75)."""

    exit_status = 75

    def __init__(self, what: str, *, node: int | None = None, rank: int | None = None, hint: str | None = None) -> None:
        super().__init__(what, hint=hint or "what is finished is kept; go on with: layerline resume RUN_DIR")
        self.node = node
        self.rank = rank


class MessageRefused(LayerlineError):
    """A message from another process is damaged, or does not belong to this plan."""


class Elsewhere(LayerlineError):
    """This process has done its part of a run; another has the result. No failure (exit status 0)."""

    exit_status = 0


class Stopped(LayerlineError):
    """The run was asked to stop and saved itself: 130 after Ctrl-C, 75 after SIGTERM. It can be resumed."""

    def __init__(self, what: str, *, exit_status: int, hint: str | None = None) -> None:
        super().__init__(what, hint=hint)
        self.exit_status = exit_status


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'random'?"` for the nearest known word, else the list of what there is."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else f"; there is: {', '.join(known)}"
