"""Tables of `layerline plan`, whatever kind of plan it is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from layerline.cli.units import duration, size
from layerline.schedules.way import Way

T = TypeVar("T")
Links = Mapping[tuple[int, int], int]
"""Bytes over each link, (sender, receiver)."""

MOST_NODES, _MOST_LINKS = 16, 8  # lines of a table


def console_of() -> Console:
    """As wide as the terminal; where there is none, wide enough for the tables."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=120)


def table_of(first: str, *others: str) -> Table:
    """An empty table: a column of words, then columns of numbers."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right" if name else "left", no_wrap=bool(name))
    return table


def some(items: Sequence[T], most: int) -> list[T | None]:
    """All, or the first and the last two with a gap between."""
    every = list(items)
    return [*every] if len(every) <= most else [*every[: most - 3], None, *every[-2:]]


def table_of_ways(first: str, ways: Sequence[Way]) -> Table:
    """A line for every way; `first`: what their names are."""
    table = table_of(first, "time", "speed-up", "busy", "traffic", "memory", "")
    for way in ways:
        numbers = (duration(way.seconds), f"{way.speedup:.2f}×", f"{way.utilisation:.0%}", size(way.bytes))
        table.add_row(way.name, *numbers, size(way.memory), f"[dim]{way.note}[/]")
    return table


def print_links(console: Console, links: Links, what: str, count: int) -> None:
    """A line for every link, with its bytes in each of `count` chapters or steps; nothing where nodes send nothing."""
    if not links:
        return
    table = table_of("link", "bytes", f"a {what}")
    for link in some(list(links), _MOST_LINKS):
        if link is None:
            table.add_row("…", "", "")
        else:
            table.add_row(f"{link[0] + 1} → {link[1] + 1}", size(links[link]), size(links[link] / count))
    console.print(table)


def numbered(links: Links) -> list[dict[str, int]]:
    """For JSON: nodes count from 1."""
    return [{"from": sender + 1, "to": receiver + 1, "bytes": count} for (sender, receiver), count in links.items()]
