"""What `layerline plan` says about a plan, for people and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console

from layerline.cli.plan_tables import MOST_NODES, console_of, numbered, print_links, some, table_of, table_of_ways
from layerline.cli.units import duration, size
from layerline.schedules.base import BaseSchedule
from layerline.schedules.compare import choice
from layerline.schedules.costs import Costs, World
from layerline.schedules.grid import grid
from layerline.schedules.limits import limits
from layerline.schedules.plan import Action, Plan
from layerline.schedules.simulate import Simulation
from layerline.schedules.way import Way
from layerline.schedules.work import Work


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A plan with all that it was made of."""

    name: str
    schedule: BaseSchedule
    work: Work
    costs: Costs
    world: World
    unused: tuple[int, ...]
    source: str
    """Where the costs come from."""
    found: Simulation

    @property
    def title(self) -> str:
        """`pff-mnist · all-layers · 4 nodes · 100 chapters`."""
        plan = self.found.plan
        return f"{self.name} · {plan.schedule} · {_count(plan.nodes, 'node')} · {_chapters(plan)}"

    @property
    def limit(self) -> str:
        """What keeps it from being faster."""
        return limits(self.schedule, self.work, self.costs, self.world, self.found)


def print_plan(planned: Planned) -> None:
    """The grid, the totals, a line per node and per link, and what limits it."""
    found = planned.found
    plan = found.plan
    console = console_of()
    console.print(
        f"[bold]{planned.title}[/]  ({plan.slots:,} slots, {len(plan):,} rows, {len(found.messages):,} messages)"
    )
    console.print()
    for line in grid(plan, found.messages, width=min(console.width, 120)):
        console.print(line, soft_wrap=True, markup=False)
    block = min(2, plan.blocks)
    legend = f"{block}.1: block {block} for {'minibatch' if plan.by_batch else 'chapter'} 1"
    legend += ", h: the softmax head" if plan.head else ""
    legend += ", *: then new negatives" if (plan.action == Action.NEGATIVES).any() else ""
    console.print(f"[dim]{legend}[/]\n")
    console.print(_seconds_of(planned))
    ideal = sum(planned.work.speeds)
    console.print(
        f"makespan    [bold]{duration(found.makespan)}[/], [bold]{found.speedup:.2f}×[/] as fast as one "
        f"node of speed 1 ({duration(found.sequential)}); these nodes could do {ideal:g}×"
    )
    console.print(f"traffic     {size(int(found.bytes.sum()))}, {size(found.bytes.sum() / plan.chapters)} a chapter\n")
    _print_nodes(console, found)
    print_links(console, found.link_bytes(), "chapter", plan.chapters)
    console.print(planned.limit)


def print_comparison(planned: Planned, ways: Sequence[Way]) -> None:
    """Every way in a table, then which to choose."""
    plan = planned.found.plan
    console = console_of()
    console.print(f"[bold]{planned.name} · {_count(plan.nodes, 'node')} · {_chapters(plan)}[/]")
    console.print(table_of_ways("--schedule", ways))
    console.print(_seconds_of(planned))
    console.print(choice(list(ways)))


def as_json(planned: Planned, ways: Sequence[Way]) -> dict[str, Any]:
    """The same in numbers: seconds and bytes. Nodes count from 1."""
    found = planned.found
    plan = found.plan
    values = {
        "name": planned.name,
        "schedule": planned.schedule.model_dump(mode="json", exclude_none=True),
        "blocks": plan.blocks,
        "head": plan.head,
        "chapters": plan.chapters,
        "exchange": "batch" if plan.by_batch else "chapter",
        "rounds": plan.rounds,
        "nodes": plan.nodes,
        "shards": plan.shards,
        "slots": plan.slots,
        "rows": len(plan),
        "messages": len(found.messages),
        "costs_from": planned.source,
        "costs": asdict(planned.costs),
        "makespan": found.makespan,
        "sequential_seconds": found.sequential,
        "speedup": found.speedup,
        "utilisation": found.utilisation.tolist(),
        "idle_seconds": found.idle.tolist(),
        "bytes": int(found.bytes.sum()),
        "links": numbered(found.link_bytes()),
        "peak_memory": found.memory.tolist(),
        "unused_nodes": [node + 1 for node in planned.unused],
        "limit": planned.limit,
    }
    if ways:
        values |= {"compare": [asdict(way) for way in ways], "choice": choice(list(ways))}
    return values


def _seconds_of(planned: Planned) -> str:
    """What a slot costs: `slots  2.1 s, 5.25 s … training`."""
    costs = planned.costs
    said = f"slots       training {_each(costs.train)}"
    if len(costs.forward) > 1:
        said += f", the set through a block {_each(costs.forward[:-1])}"
    if planned.work.judged:
        said += f", ranking {duration(costs.ranking)}"
    return f"{said}  [dim]({planned.source})[/]"


def _each(seconds: Sequence[float]) -> str:
    """`1.4 s, 3 × 5.5 s`."""
    runs: list[tuple[str, int]] = []
    for one in map(duration, seconds):
        if runs and runs[-1][0] == one:
            runs[-1] = one, runs[-1][1] + 1
        else:
            runs.append((one, 1))
    shown = [one if count == 1 else f"{count:,} × {one}" for one, count in runs]
    return ", ".join(shown if len(shown) <= 6 else [*shown[:5], "…", shown[-1]])


def _print_nodes(console: Console, found: Simulation) -> None:
    table = table_of("", "utilisation", "busy", "idle", "peak memory")
    for node in some(range(found.plan.nodes), MOST_NODES):
        if node is None:
            table.add_row("…", "", "", "", "")
            continue
        times = (duration(float(found.busy[node])), duration(float(found.idle[node])))
        table.add_row(f"node {node + 1}", f"{found.utilisation[node]:.1%}", *times, size(int(found.memory[node])))
    if found.plan.nodes > 1:
        table.add_row(
            "mean",
            f"{found.utilisation.mean():.1%}",
            *(duration(float(np.mean(seconds))) for seconds in (found.busy, found.idle)),
            size(float(found.memory.mean())),
        )
    console.print(table)


def _chapters(plan: Plan) -> str:
    """`100 chapters`, or `100 chapters of 938 minibatches`, after each of which nodes exchange."""
    chapters = _count(plan.chapters, "chapter")
    minibatch = f"{plan.minibatches:,} minibatch{'es' * (plan.minibatches != 1)}"
    return f"{chapters} of {minibatch}" if plan.by_batch else chapters


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"
