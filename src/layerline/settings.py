"""Frozen settings: the base of every component and of the Run.

A component (a loss, a negatives policy, a readout …) *is* its settings: one frozen, keyword-only pydantic model with
behaviour, no config twin beside it. A docstring under a field is its documentation and its help text on the command
line.

A family of components (`Loss`, `Negatives` …) is a union told apart by the field `kind`, so that TOML says
`[objective.loss] kind = "silu-margin"` and the command line `--loss silu-margin`.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Settings(BaseModel):
    """Base of all settings: frozen, keyword-only, unknown keys refused, field docstrings kept as descriptions."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        validate_default=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _kind_of_default(cls, given: Any) -> Any:
        """A table that names no kind has that of the field's default: `[readout] skip = 0` is about goodness."""
        if not isinstance(given, dict):
            return given
        filled = dict(given)
        for name, field in cls.model_fields.items():
            kind = getattr(field.default, "kind", None)
            if kind is not None and isinstance(filled.get(name), dict):
                filled[name] = {"kind": kind} | filled[name]
        return filled
