"""`layerline plan` for a run that trains in a stream: its grid, its time, its traffic, and other reaches beside it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from layerline.blocks.cut import CutAt
from layerline.cli.dealt_stream import dealt_otherwise
from layerline.cli.flags import settings_of
from layerline.cli.output import note, print_json
from layerline.cli.resolve import resolve
from layerline.cli.stream_report import PlannedStream, as_json, print_stream
from layerline.cli.training import load_data
from layerline.cli.units import LATENCY, LINK, bytes_per_second, seconds
from layerline.data.catalog import published_sizes
from layerline.data.dataset import held_out
from layerline.data.text_set import TextSet
from layerline.errors import UsageError
from layerline.runtime.stream.model import StreamModel, encoder_of
from layerline.runtime.stream.planning import costs_of, stream_of, world_of
from layerline.runtime.stream.timed_cut import settled_cut
from layerline.schedules.costs import Machine, World
from layerline.schedules.division import costs_in, simulate_method
from layerline.schedules.reach import Reach
from layerline.schedules.stream import WINDOW, Stream
from layerline.schedules.stream_compare import by_reach, pipelines
from layerline.schedules.stream_costs import StreamCosts
from layerline.schedules.stream_simulate import simulate_stream
from layerline.schedules.stream_validate import validate_stream
from layerline.schedules.timing import Sync
from layerline.schedules.way import Way
from layerline.stream_run import StreamRun
from layerline.streamed import refuse_apart
from layerline.transport.boundary import Plain


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
    costed = _costing(arguments)
    steps = run.epochs * -(-examples // run.batch_size)
    planned = _planned(model, costed(model), min(steps, run.max_steps or steps), arguments)
    ways: list[Way] = []
    said = dealt_otherwise(planned, model) if arguments.measure else None
    if said:
        note(f"note: {said}")
    if not isinstance(planned.stream, Stream):
        from layerline.cli.method_plan import beside  # here: PyTorch's pipelines take seconds to import

        ways += beside(planned, model, costed)
    if arguments.compare:
        ways += _compare(planned, model, costed)
    if arguments.gantt:
        from layerline.reporting.gantt import draw_gantt

        drawn = planned.found.begin.plan.chapters
        part = f" (the first {drawn:,} are drawn)" if drawn < planned.steps else ""
        draw_gantt(planned.found.begin, arguments.gantt, planned.title + part)
    if arguments.format == "json":
        print_json(as_json(planned, ways))
        return
    print_stream(planned, ways)
    if arguments.gantt:
        print(f"\nDrawn: {arguments.gantt}")


def _planned(model: StreamModel, costs: StreamCosts, steps: int, arguments: argparse.Namespace) -> PlannedStream:
    """The plan of so many steps, carried out in thought."""
    run, source = model.run, "measured here" if arguments.measure else "assumed; --measure measures"
    if run.method in (None, "plain"):
        stream = stream_of(model)
        validate_stream(stream.plan(stream.ahead + 2), stream.reach, stream.window, stream.takers)
        world = _world(run, [costs.outputs[blocks.stop - 1] for blocks in stream.owned], arguments)
        return PlannedStream(run, stream, costs, world, steps, source, simulate_stream(stream, costs, world, steps))
    from layerline.baselines.planning import division_of  # here: PyTorch's pipelines take seconds to import

    division = division_of(model)
    world = _world(run, costs_in(division, costs).outputs, arguments)
    return PlannedStream(run, division, costs, world, steps, source, simulate_method(division, costs, world, steps))


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
    run = planned.run.replace(method=None, microbatches=planned.run.parts, timing=Sync())
    shape, classes, ways = model.encoder.shape, len(model.classes), []
    mine, plain = run.reached(blocks), run.replace(boundary=Plain())  # which a gradient can go back through
    world = world_of(plain, planned.world.bandwidth, planned.world.latency, planned.world.speeds)
    for reach in sorted({1, 2, 3, mine, blocks}):
        if reach <= blocks and (ours or reach != mine):
            window = run.window if reach == 1 else WINDOW
            other = model_of((run if reach == mine else plain).replace(reach=reach, window=window), shape, classes)
            name = "all" if reach == blocks else str(reach)
            why, over = ("", planned.world) if reach == mine else ("another learning rule", world)
            ways.append(by_reach(f"reach {name}", stream_of(other), costed(other), over, steps, why))
    microbatches = max(1, min(run.batch_size, 4 * planned.stream.nodes))
    other = model_of(plain.replace(reach="all", microbatches=microbatches, window=WINDOW), shape, classes)
    why = "" if mine == blocks else "another learning rule"
    return ways + pipelines(stream_of(other), costed(other), world, steps, microbatches, why)
