"""The rows of a stream's pattern as their worker sees them: what each takes, from whom, and what it sends to whom."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from layerline.schedules.pattern import Step
from layerline.schedules.plan import Action, Carries


@dataclass(frozen=True)
class Source:
    """Where an input comes from: a row of the pattern, so many steps ago."""

    row: int
    carries: Carries
    ago: int
    node: int | None
    """The node that sends it; None: it is here."""


@dataclass
class PatternRow:
    """A row of the pattern as its worker sees it."""

    number: int
    step: Step
    sources: list[Source] = field(default_factory=list)
    sends: list[tuple[Carries, int, int]] = field(default_factory=list)
    """What to which node, and how many steps later it is needed."""
    kept: bool = False
    """Whether another row here takes its result."""


def node_of(row: PatternRow) -> int:
    """Whose row it is."""
    assert isinstance(row.step.node, int)
    return row.step.node


def rows_of(pattern: list[Step]) -> Iterator[PatternRow]:
    """The rows of a step with what they take from others and what they send."""
    rows = [PatternRow(number, step) for number, step in enumerate(pattern)]
    for row in rows:
        for each in row.step.inputs:
            source, ago = rows[each.step], each.ago
            assert isinstance(ago, int)
            crosses = node_of(source) != node_of(row)
            if crosses:
                source.sends.append((each.carries, node_of(row), ago))
            elif source.step.action == row.step.action and source.step.action != Action.UPDATE:
                source.kept = True  # from block to block; what a block leaves for itself, its stage keeps
            else:
                continue
            row.sources.append(Source(each.step, each.carries, ago, node_of(source) if crosses else None))
    yield from rows
