"""What `layerline plan` says about the plan of a stream, for people and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from layerline.cli.plan_tables import MOST_NODES, console_of, numbered, print_links, some, table_of, table_of_ways
from layerline.cli.stream_words import in_runs, legend
from layerline.cli.units import duration, size
from layerline.schedules.costs import World
from layerline.schedules.division import Division
from layerline.schedules.grid import grid
from layerline.schedules.lower import messages
from layerline.schedules.stream import Stream
from layerline.schedules.stream_costs import StreamCosts
from layerline.schedules.stream_simulate import StreamSimulation
from layerline.schedules.way import Way
from layerline.stream_run import StreamRun

_DRAWN = 2
"""Steps in the grid."""


@dataclass(frozen=True)
class PlannedStream:
    """A stream's plan with all that it was made of."""

    run: StreamRun
    stream: Stream | Division
    costs: StreamCosts
    world: World
    steps: int
    source: str
    """Where the costs come from."""
    found: StreamSimulation

    @property
    def title(self) -> str:
        """`dgl-cifar10 · stream · reach 1 · 4 nodes · 1,950 steps`."""
        nodes = f"{self.stream.nodes} node{'s' * (self.stream.nodes > 1)}"
        what = f"stream · reach {self.run.reach}" if self.run.method is None else f"backprop · {self.run.method}"
        return f"{self.run.preset} · {what} · {nodes} · {self.steps:,} steps"

    @property
    def bubble(self) -> float:
        """The share of the nodes' time in which they wait."""
        return 1 - float(np.mean(self.found.utilisation))

    @cached_property
    def lines(self) -> list[str]:
        """The grid of the first steps."""
        plan = self.stream.plan(min(_DRAWN, self.steps))
        return grid(plan, messages(plan), width=console_of().width)


def as_json(planned: PlannedStream, ways: Sequence[Way]) -> dict[str, Any]:
    """In numbers: seconds and bytes. Nodes and blocks count from 1."""
    found, stream = planned.found, planned.stream
    values: dict[str, Any] = {
        "name": planned.run.preset,
        "schedule": "stream" if isinstance(stream, Stream) else stream.name,
        "reach": planned.run.reach,
        "blocks": len({block for blocks in stream.owned for block in blocks}),
        "microbatches": stream.microbatches,
        "nodes": stream.nodes,
        "owned": [[block + 1 for block in blocks] for blocks in stream.owned],
        "steps": planned.steps,
        "step_seconds": found.step_seconds,
        "makespan": found.makespan,
        "sequential_seconds": found.sequential,
        "speedup": found.speedup,
        "utilisation": found.utilisation.tolist(),
        "bubble": planned.bubble,
        "idle_seconds": (found.makespan - found.busy).tolist(),
        "links": numbered(found.link_bytes()),
        "bytes": sum(found.link_bytes().values()),
        "peak_memory": found.begin.memory.tolist(),
        "peak_activations": found.activations.tolist(),
        "costs_from": planned.source,
        "costs": asdict(planned.costs),
        "bandwidth": planned.world.bandwidth if np.isfinite(planned.world.bandwidth) else None,
        "latency": planned.world.latency,
        "grid": planned.lines,
    }
    if ways:
        values["compare"] = [asdict(way) for way in ways]
    return values


def print_stream(planned: PlannedStream, ways: Sequence[Way]) -> None:
    """The grid of the first steps, the totals, a line per node, link and way."""
    found, console = planned.found, console_of()
    console.print(f"[bold]{planned.title}[/]  ({len(planned.stream.order()):,} rows a step)\n")
    for line in planned.lines:
        console.print(line, soft_wrap=True, markup=False)
    console.print(f"[dim]{legend(planned.stream)}[/]\n")
    rate = f"{size(planned.world.bandwidth)}/s" if np.isfinite(planned.world.bandwidth) else "of any speed"
    console.print(f"rows        {planned.source}; a link {rate}, {1e3 * planned.world.latency:.3g} ms", highlight=False)
    console.print(
        f"makespan    [bold]{duration(found.makespan)}[/], {duration(found.step_seconds)} a step, "
        f"[bold]{found.speedup:.2f}×[/] as fast as one node of speed 1 ({duration(found.sequential)})"
    )
    console.print(f"bubble      {planned.bubble:.1%} of the nodes' time is waiting")
    console.print(f"traffic     {size(sum(found.link_bytes().values()))}\n")
    _print_nodes(planned)
    print_links(console, found.link_bytes(), "step", planned.steps)
    if ways:
        console.print(table_of_ways("", ways))


def _print_nodes(planned: PlannedStream) -> None:
    found, stream = planned.found, planned.stream
    table = table_of("", "blocks", "utilisation", "busy", "idle", "activations", "peak memory")
    for node in some(range(stream.nodes), MOST_NODES):
        if node is None:
            table.add_row("…", *[""] * 6)
            continue
        blocks, busy = stream.owned[node], float(found.busy[node])
        which = in_runs(blocks)
        times = (duration(busy), duration(found.makespan - busy))
        room = (size(int(found.activations[node])), size(int(found.begin.memory[node])))
        table.add_row(f"node {node + 1}", which, f"{found.utilisation[node]:.1%}", *times, *room)
    if stream.nodes > 1:
        table.add_row("mean", "", f"{np.mean(found.utilisation):.1%}", *[""] * 4)
    console_of().print(table)
