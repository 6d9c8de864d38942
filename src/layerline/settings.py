"""Frozen settings: the base of every component and of the Run.

A component (a loss, a negatives policy, a readout …) *is* its settings: one frozen, keyword-only pydantic model with
behaviour, no config twin beside it. A docstring under a field is its documentation and its help text on the command
line.

A family of components (`Loss`, `Negatives` …) is a union told apart by the field `kind`, so that TOML says
`[objective.loss] kind = "silu-margin"` and the command line `--loss silu-margin`.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Base of all settings: frozen, keyword-only, unknown keys refused, field docstrings kept as descriptions."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        validate_default=True,
    )
