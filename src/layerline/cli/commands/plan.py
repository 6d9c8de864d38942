"""`layerline plan PRESET|RUN.toml`, or `layerline plan --blocks N` for a network in numbers (without PyTorch).

Runs that train in a stream have a plan of another kind: see `stream_plan`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from layerline.cli.costs_file import read_costs
from layerline.cli.flags import add_settings, nested, settings_of
from layerline.cli.layers import Layer
from layerline.cli.output import add_data_dir, add_format, note, print_json
from layerline.cli.parser import Parser
from layerline.cli.plan_report import Planned, as_json, print_comparison, print_plan
from layerline.cli.units import LATENCY, LINK, bytes_per_second, seconds
from layerline.errors import UsageError
from layerline.schedules.base import named_nodes, unused_nodes
from layerline.schedules.compare import compare
from layerline.schedules.costs import ON_THE_WIRE, Costs, Machine, Sizes, World, estimate, fitted
from layerline.schedules.lower import messages
from layerline.schedules.numbers import Numbers
from layerline.schedules.simulate import simulate
from layerline.schedules.validate import validate

if TYPE_CHECKING:
    from layerline.run import Run
    from layerline.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A start and all settings of a Run; or, where `--blocks` stands, those of a network in numbers."""
    words = parser.words if isinstance(parser, Parser) else ()
    named = bool(words) and not words[0].startswith("-")
    streams = named and _family(words).__name__ == "StreamRun"  # whose own --blocks says how many to cut
    in_numbers = not streams and any(word.partition("=")[0] == "--blocks" for word in words)
    parser.add_argument(
        "start",
        metavar="PRESET|RUN.toml",
        nargs="?",
        help="What to plan; without it, a network in numbers: --blocks N.",
    )
    world = parser.add_argument_group("world")
    world.add_argument("--link", metavar="RATE", help=(
        f"What a node can send: 1gbit, 100mbit, 12GB, ideal. Default {LINK}: processes on one host."
    ))  # fmt: skip
    world.add_argument("--latency", metavar="TIME", help=f"From a node to the next: 2ms, 100us. Default {LATENCY}.")
    world.add_argument("--arithmetic", metavar="GFLOPS", type=float, default=Machine().arithmetic / 1e9, help=(
        "Assumed speed of a node of speed 1 in matrix products, in 10⁹ operations a second. Default %(default)g."
    ))  # fmt: skip
    world.add_argument("--memory", metavar="GBYTES", type=float, default=Machine().memory / 1e9, help=(
        "Assumed speed of its memory in 10⁹ bytes a second. Default %(default)g."
    ))  # fmt: skip
    world.add_argument("--costs", metavar="FILE.json", help="Slot costs measured before: what --format json printed.")
    world.add_argument("--measure", action="store_true", help=(
        "Measure slot costs on this machine instead; of a stream also a link on the loopback interface, without --link."
    ))  # fmt: skip
    world.add_argument("--compare", action="store_true", help="Every schedule, and backprop, in one table.")
    world.add_argument("--gantt", metavar="FILE.svg|png", help="Draw the plan in time (needs matplotlib).")
    add_format(parser)
    if in_numbers:
        add_settings(parser, Numbers)
    else:
        if not streams:
            parser.add_argument(
                "--blocks", metavar="N", help="Plan a network in numbers; see: layerline plan --blocks 4 -h"
            )
        parser.add_argument("--config", metavar="FILE.toml", help="Settings that lie over the preset, below the flags.")
        add_data_dir(parser)
        root = _family(words) if named else None
        add_settings(parser, root)
        if root and isinstance(parser, Parser):
            from layerline.cli.families import flags_elsewhere

            parser.elsewhere = flags_elsewhere(root)


def run(arguments: argparse.Namespace) -> None:
    """Plan, simulate, show."""
    if arguments.costs and arguments.measure:
        raise UsageError("slot costs are measured or read from a file", hint="leave out --costs or --measure")
    if arguments.gantt:
        from layerline.reporting.gantt import check_gantt

        check_gantt(arguments.gantt)
    if arguments.start is not None and _family([arguments.start]).__name__ == "StreamRun":
        from layerline.cli.stream_plan import plan_stream

        _positive(arguments, "arithmetic")
        _positive(arguments, "memory")
        plan_stream(arguments)
        return
    described, planned, sizes, machine = _planned(arguments)
    if planned.unused:
        why = planned.schedule.why_unused(planned.work)
        note(f"warning: {named_nodes(planned.unused)} would have nothing to do: {why}")
    if not isinstance(described, Numbers) and (arguments.costs or arguments.measure):
        from layerline.cli.dealt import trained_otherwise

        said = trained_otherwise(described, sizes, planned)
        if said:
            note(f"note: {said}")
    ways = compare(planned.work, planned.costs, planned.world, sizes, machine) if arguments.compare else []
    if arguments.gantt:
        from layerline.reporting.gantt import draw_gantt

        draw_gantt(planned.found, arguments.gantt, planned.title)
    if arguments.format == "json":
        print_json(as_json(planned, ways))
        return
    if ways:
        print_comparison(planned, ways)
    else:
        print_plan(planned)
    if arguments.gantt:
        print(f"\nDrawn: {arguments.gantt}")


def _family(words: Sequence[str]) -> type[Settings]:
    """Whose settings the flags are; PyTorch comes with it."""
    from layerline.cli.families import family_of

    return family_of(words)


def _planned(arguments: argparse.Namespace) -> tuple[Run | Numbers, Planned, Sizes, Machine]:
    """What is planned, and its plan, carried out in thought."""
    machine = Machine(arithmetic=_positive(arguments, "arithmetic"), memory=_positive(arguments, "memory"))
    bandwidth, latency = bytes_per_second(arguments.link or LINK), seconds(arguments.latency or LATENCY)
    described, sizes, costs, machine = _described(arguments, machine)
    world = World(
        bandwidth=bandwidth,
        latency=latency,
        speeds=described.speeds,
        codec=_on_the_wire(described),
        moments_travel=described.send_optimizer_state,
    )
    blocks = sizes.blocks
    work = costs.work(described.work() if isinstance(described, Numbers) else described.work(blocks, sizes.examples))
    plan = described.schedule.plan(work)
    validate(plan)
    planned = Planned(
        name=described.preset
        if not isinstance(described, Numbers)
        else f"{blocks} block{'s' * (blocks > 1)} of {described.width}",
        schedule=described.schedule,
        work=work,
        costs=costs,
        world=world,
        unused=unused_nodes(plan),
        source="measured here" if arguments.measure else arguments.costs or "assumed; --measure measures",
        found=simulate(plan, costs, world, messages(plan)),
    )
    return described, planned, sizes, machine


def _on_the_wire(described: Run | Numbers) -> float:
    """Bytes of weights on the wire over bytes in memory."""
    codec = getattr(described, "codec", "fp32")
    return ON_THE_WIRE[codec if isinstance(codec, str) else codec.kind]


def _positive(arguments: argparse.Namespace, name: str) -> float:
    """A rate in 10⁹ a second."""
    value: float = getattr(arguments, name)
    if not 0 < value < float("inf"):
        raise UsageError(f"--{name} should be greater than 0, got {value:g}")
    return value * 1e9


def _described(arguments: argparse.Namespace, machine: Machine) -> tuple[Run | Numbers, Sizes, Costs, Machine]:
    """The settings, the network's sizes, what its slots cost, and the machine that would have these costs."""
    in_numbers = "blocks" in settings_of(arguments)
    if in_numbers and arguments.start is not None:
        raise UsageError(f"--blocks plans a network in numbers, not {arguments.start}", hint="leave out one of the two")
    if arguments.start is None:
        if not in_numbers:
            raise UsageError(
                "plan what?", hint="name a preset (layerline presets lists them), or give --blocks N for any network"
            )
        numbers = _numbers(arguments)
        if arguments.measure:
            raise UsageError("only a preset or run.toml can be measured, not numbers", hint="leave out --measure")
        sizes = numbers.sizes()
        return numbers, sizes, *_known_costs(arguments, sizes, machine)
    from layerline.cli.planning import run_and_sizes  # PyTorch comes with the Run

    run, shape, sizes = run_and_sizes(arguments)
    if not arguments.measure:
        return run, sizes, *_known_costs(arguments, sizes, machine)
    from layerline.runtime.measure import measure

    costs = measure(run, shape, sizes)
    return run, sizes, costs, fitted(costs, sizes)


def _known_costs(arguments: argparse.Namespace, sizes: Sizes, machine: Machine) -> tuple[Costs, Machine]:
    """The formula's costs, or those of a file, and the machine that would have them."""
    assumed = estimate(sizes, machine)
    if not arguments.costs:
        return assumed, machine
    costs = read_costs(arguments.costs, assumed)
    return costs, fitted(costs, sizes) if sum(costs.forward) else machine


def _numbers(arguments: argparse.Namespace) -> Numbers:
    """The network in numbers that the flags describe."""
    flags = nested(settings_of(arguments), Numbers)
    settings = Layer(flags, "", is_flags=True, root=Numbers).over(Numbers().model_dump(mode="json", exclude_none=True))
    numbers = Numbers.model_validate(settings)
    if numbers.epochs and numbers.epochs % numbers.chapters:
        raise UsageError(f"{numbers.chapters} chapters do not divide {numbers.epochs} epochs")
    return numbers
