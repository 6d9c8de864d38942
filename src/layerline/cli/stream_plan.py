"""`layerline plan` for a run that trains in a stream: its grid, its time, its traffic, and other reaches beside it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from layerline.blocks.cut import CutAt
from layerline.cli.flags import settings_of
from layerline.cli.output import note, print_json
from layerline.cli.plan_report import console_of, some, table_of
from layerline.cli.resolve import resolve
from layerline.cli.stream_words import in_runs, legend
from layerline.cli.training import load_data
from layerline.cli.units import LATENCY, LINK, bytes_per_second, duration, seconds, size
from layerline.data.catalog import published_sizes
from layerline.data.dataset import held_out
from layerline.data.text_set import TextSet
from layerline.errors import UsageError
from layerline.runtime.stream.crossing import crossings
from layerline.runtime.stream.model import StreamModel, encoder_of
from layerline.runtime.stream.planning import costs_of, stream_of, world_of
from layerline.runtime.stream.timed_cut import settled_cut
from layerline.schedules.costs import Machine, World
from layerline.schedules.division import Division, costs_in, simulate_method
from layerline.schedules.grid import grid
from layerline.schedules.lower import messages
from layerline.schedules.reach import Reach
from layerline.schedules.stream import WINDOW, Stream
from layerline.schedules.stream_compare import by_reach, pipelines
from layerline.schedules.stream_costs import StreamCosts
from layerline.schedules.stream_simulate import StreamSimulation, simulate_stream
from layerline.schedules.stream_validate import validate_stream
from layerline.schedules.timing import Sync
from layerline.schedules.way import Way
from layerline.stream_run import StreamRun
from layerline.streamed import refuse_apart
from layerline.transport.boundary import Plain

_DRAWN = 2
"""Steps in the grid."""
_MOST_NODES, _MOST_LINKS = 16, 8  # lines of a table


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


def plan_stream(arguments: argparse.Namespace) -> None:
    """Plan, simulate, show."""
    if arguments.costs:
        raise UsageError(
            "--costs is about the slots of chapters; a stream has none", hint="leave it out; --measure measures"
        )
    run = resolve(arguments.start, arguments.config, settings_of(arguments), note)
    assert isinstance(run, StreamRun)
    if not isinstance(run.timing, Sync):
        note("Blocks that run freely follow no plan: this is the stream in which they wait for each other.")
    model, examples = _network(run, arguments)
    run = model.run
    if run.is_planned and run.method is None:
        refuse_apart(run, model)
    crossings(model, model.device)  # whether outputs fit the boundary
    costed = _costing(arguments)
    costs = costed(model)
    steps = run.epochs * -(-examples // run.batch_size)
    steps = min(steps, run.max_steps or steps)
    source = "measured here" if arguments.measure else "assumed; --measure measures"
    ways: list[Way] = []
    if run.method in (None, "plain"):
        stream = stream_of(model)
        validate_stream(stream.plan(stream.ahead + 2), stream.reach, stream.window, stream.takers)
        world = _world(run, [costs.outputs[blocks.stop - 1] for blocks in stream.owned], arguments)
        found = simulate_stream(stream, costs, world, steps)
        planned = PlannedStream(run, stream, costs, world, steps, source, found)
    else:
        from layerline.cli.method_plan import beside, divided  # here: PyTorch's pipelines take seconds to import

        division = divided(model)
        world = _world(run, costs_in(division, costs).outputs, arguments)
        found = simulate_method(division, costs, world, steps)
        planned = PlannedStream(run, division, costs, world, steps, source, found)
        ways = beside(planned, model, costed)
    ways += _compare(planned, model, costed) if arguments.compare else []
    if arguments.gantt:
        from layerline.reporting.gantt import draw_gantt

        drawn = planned.found.begin.plan.chapters
        part = f" (the first {drawn:,} are drawn)" if drawn < steps else ""
        draw_gantt(planned.found.begin, arguments.gantt, planned.title + part)
    if arguments.format == "json":
        print_json(as_json(planned, ways))
        return
    _print(planned, ways)
    if arguments.gantt:
        print(f"\nDrawn: {arguments.gantt}")


def _costing(arguments: argparse.Namespace) -> Callable[[StreamModel], StreamCosts]:
    """What a model's rows cost: measured here, once for all ways that have the same rows; or by formula."""
    if not arguments.measure:
        machine = Machine(arithmetic=arguments.arithmetic * 1e9, memory=arguments.memory * 1e9)
        return lambda model: costs_of(model, machine)
    from layerline.runtime.stream.measure import measure_stream

    measured: dict[tuple[Reach, int, bool], StreamCosts] = {}

    def costed(model: StreamModel) -> StreamCosts:
        ours = model.run.method in (None, "plain")
        what = model.reach, model.run.parts, ours
        if what not in measured:
            measured[what] = measure_stream(model, stream_of(model) if ours else None)
        return measured[what]

    return costed


def _world(run: StreamRun, outputs: Sequence[int], arguments: argparse.Namespace) -> World:
    """The links that were asked for; else, where costs are measured and nodes send, one of this machine.

    `outputs`: bytes that each node, or stage, sends to the next; the last one sends none.
    """
    link, delay = arguments.link, arguments.latency
    bandwidth, latency = bytes_per_second(link or LINK), seconds(delay or LATENCY)
    if arguments.measure and run.nodes > 1 and not link:
        from layerline.transport.loopback import measure_link

        bandwidth, measured = measure_link(max(outputs[:-1]), run.codec)
        latency = latency if delay else measured
    return world_of(run, bandwidth, latency, run.speeds)


def _network(run: StreamRun, arguments: argparse.Namespace) -> tuple[StreamModel, int]:
    """The run's network, and how many examples it is trained on. The data is read only where it is not known."""
    known = published_sizes(run.dataset)
    if known is None:
        data = load_data(run, arguments)
        if isinstance(data, TextSet):
            return model_of(run, (data.context,), data.num_classes), data.windows
        known = data.shape, data.num_classes, len(data.train)
    shape, classes, examples = known
    if run.validation:
        examples -= held_out(examples)
    return model_of(run, shape, classes), examples


def model_of(run: StreamRun, shape: tuple[int, ...], classes: int) -> StreamModel:
    """A network of this run, to be looked at; where blocks are to take equally long, its run says where they begin."""
    settled = settled_cut(run, shape, classes)
    if settled is not run and isinstance(settled.cut, CutAt):
        where = ",".join(map(str, settled.cut.positions))
        note(f"note: blocks of equal time, measured here: --cut at --positions {where}")
    return StreamModel(settled, encoder_of(settled, shape, classes), tuple(map(str, range(classes))))


def _compare(planned: PlannedStream, model: StreamModel, costed: Callable[[StreamModel], StreamCosts]) -> list[Way]:
    """Every reach on these nodes in streams of as many microbatches, then GPipe and 1F1B.

    Nothing where there are more copies of the network than it has blocks. Reach all beside a method is there already.
    """
    blocks, steps, ours = model.reach.blocks, planned.steps, isinstance(planned.stream, Stream)
    if planned.stream.nodes > blocks:
        return []
    run = planned.run.replace(method=None, microbatches=planned.run.parts, timing=Sync(), boundary=Plain())
    shape, classes, ways = model.encoder.shape, len(model.classes), []
    mine = run.reached(blocks)
    for reach in sorted({1, 2, 3, mine, blocks}):
        if reach <= blocks and (ours or reach != mine):
            window = run.window if reach == 1 else WINDOW
            other = model_of(run.replace(reach=reach, window=window), shape, classes)
            name = "all" if reach == blocks else str(reach)
            why = "" if reach == mine else "another rule"
            ways.append(by_reach(f"reach {name}", stream_of(other), costed(other), planned.world, steps, why))
    microbatches = max(1, min(run.batch_size, 4 * planned.stream.nodes))
    other = model_of(run.replace(reach="all", microbatches=microbatches, window=WINDOW), shape, classes)
    why = "" if mine == blocks else "another rule"
    return ways + pipelines(stream_of(other), costed(other), planned.world, steps, microbatches, why)


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
        "links": [{"from": a + 1, "to": b + 1, "bytes": n} for (a, b), n in found.link_bytes().items()],
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


def _print(planned: PlannedStream, ways: Sequence[Way]) -> None:
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
    links = found.link_bytes()
    if links:
        table = table_of("link", "bytes", "a step")
        for link in some(list(links), _MOST_LINKS):
            row = ("…", "", "") if link is None else _link(link, links[link], planned.steps)
            table.add_row(*row)
        console.print(table)
    if ways:
        table = table_of("", "time", "speed-up", "busy", "traffic", "memory", "")
        for way in ways:
            numbers = (duration(way.seconds), f"{way.speedup:.2f}×", f"{way.utilisation:.0%}", size(way.bytes))
            table.add_row(way.name, *numbers, size(way.memory), f"[dim]{way.note}[/]")
        console.print(table)


def _link(link: tuple[int, int], count: int, steps: int) -> tuple[str, str, str]:
    return f"{link[0] + 1} → {link[1] + 1}", size(count), size(count / steps)


def _print_nodes(planned: PlannedStream) -> None:
    found, stream = planned.found, planned.stream
    table = table_of("", "blocks", "utilisation", "busy", "idle", "activations", "peak memory")
    for node in some(range(stream.nodes), _MOST_NODES):
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
