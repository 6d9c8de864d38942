"""What a block may say of the data it was trained on, when it leaves its node.

    none        the block as it was trained
    clipped     received + u·min(1, C / ‖u‖)                  u: what training changed, over the whole slot
    local-dp    received + u·min(1, C / ‖u‖) + N(0, σ²)       σ = s·√(2 ln(1.25 / δ)) / ε

`local-dp` is the Gaussian mechanism (Dwork and Roth, The Algorithmic Foundations of Differential Privacy, Theorem A.1):
for whoever sees one such block, all data that a participant could have had look alike, up to (ε, δ). Two clipped
updates lie at most 2·C apart, which is what s is if it is left out.

The formula is proved for ε < 1 and promises too much where ε is large. What a deviation really gives is known exactly,
with μ = s / σ (Balle and Wang, arXiv 1805.06530, Theorem 8), so that is checked:

    δ(ε) = Φ(μ/2 − ε/μ) − e^ε · Φ(−μ/2 − ε/μ)
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from layerline.errors import UsageError
from layerline.settings import Settings


class Open(Settings):
    """Blocks leave as they were trained."""

    kind: Literal["none"] = "none"


class Clipped(Settings):
    """What training changed is scaled down to a norm. That bounds what one participant can do to the others; it hides
    nothing."""

    kind: Literal["clipped"] = "clipped"
    clipping: float = Field(default=1.0, gt=0)
    """C: the largest L2 norm of what a slot changes in a block, over all its parameters together."""


class LocalDp(Settings):
    """Clipped, and noise added before a block leaves: every block by itself is (ε, δ)-differentially private."""

    kind: Literal["local-dp"] = "local-dp"
    clipping: float = Field(default=1.0, gt=0)
    """C: the largest L2 norm of what a slot changes in a block, over all its parameters together."""
    epsilon: float = Field(default=1.0, ge=1e-6, le=100)
    """ε of one block, once; K blocks of a participant together have at most K·ε."""
    delta: float = Field(default=1e-5, ge=1e-15, lt=1)
    """δ of one block, once: the probability that the promise leaves open."""
    sensitivity: float | None = Field(default=None, gt=0)
    """s: how far apart two updates may lie; left out: 2·C, any two. C, if only that somebody took part is to be
    hidden."""

    @property
    def apart(self) -> float:
        """s."""
        return 2 * self.clipping if self.sensitivity is None else self.sensitivity

    @property
    def deviation(self) -> float:
        """σ, of every number of a block."""
        return self.apart / self._mu

    @property
    def _mu(self) -> float:
        """s / σ."""
        return self.epsilon / math.sqrt(2 * math.log(1.25 / self.delta))

    @model_validator(mode="after")
    def _keeps_its_word(self) -> LocalDp:
        if self.apart < self.clipping:
            raise UsageError(
                f"updates of norm {self.clipping:g} can lie further apart than {self.apart:g}, so noise for that hides "
                "less than it says",
                hint="leave out --sensitivity, or choose a smaller --clipping",
            )
        if exact_delta(self.epsilon, self._mu) > self.delta:
            raise UsageError(
                f"the noise that Flower's formula gives for epsilon {self.epsilon:g} and delta {self.delta:g} is too "
                "little for them",
                hint="choose a smaller --epsilon: below 1 the formula holds for any delta",
            )
        return self


Privacy = Annotated[Open | Clipped | LocalDp, Field(discriminator="kind")]


def exact_delta(epsilon: float, mu: float) -> float:
    """δ of the Gaussian mechanism at ε. `mu`: sensitivity over deviation."""
    return _below(mu / 2 - epsilon / mu) - math.exp(epsilon) * _below(-mu / 2 - epsilon / mu)


def _below(x: float) -> float:
    """Φ: the standard normal distribution."""
    return math.erfc(-x / math.sqrt(2)) / 2
