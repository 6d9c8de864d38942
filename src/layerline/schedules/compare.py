"""Every way to train this network on these nodes, in one table, and which to choose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from layerline.schedules.all_layers import AllLayers
from layerline.schedules.backprop import backprop
from layerline.schedules.base import BaseSchedule
from layerline.schedules.costs import Costs, Machine, Sizes, World, estimate
from layerline.schedules.dff import Dff
from layerline.schedules.federated import Federated
from layerline.schedules.sequential import Sequential
from layerline.schedules.simulate import simulate
from layerline.schedules.single_layer import SingleLayer
from layerline.schedules.way import Way
from layerline.schedules.work import Work

_AS_FAST = 1.03  # within this, the one that sends less is the better choice


def compare(work: Work, costs: Costs, world: World, sizes: Sizes, machine: Machine) -> list[Way]:
    """All of them; exchanging per batch, too, where the work is to.

    `costs` may be measured; what full batches and backprop cost comes from the formula.
    """
    ways = []
    per_chapter = replace(work, minibatches=None)
    candidates = [(schedule, note, per_chapter) for schedule, note in _schedules(work)]
    if work.minibatches:
        candidates += [(schedule, note, work) for schedule, note in _schedules(work) if schedule.meets_per_batch]
    for schedule, note, asked in candidates:
        theirs = costs
        if isinstance(schedule, Dff) and schedule.batch == "full":
            whole = estimate(replace(sizes, full_batch=True), machine)
            theirs = replace(costs, train=whole.train)
        found = simulate(schedule.plan(theirs.work(asked)), theirs, world)
        ways.append(
            Way(
                _flags(schedule) + " --exchange batch" * (asked.minibatches is not None),
                found.makespan,
                found.speedup,
                float(found.utilisation.mean()),
                int(found.bytes.sum()),
                int(found.memory.max()),
                note,
            )
        )
    return ways + backprop(sizes, machine, world, work.nodes, work.chapters)


def choice(ways: list[Way]) -> str:
    """One sentence: which, and why."""
    able = [way for way in ways if way.comparable]
    fastest = min(able, key=lambda way: way.seconds)
    close = [way for way in able if way.seconds <= fastest.seconds * _AS_FAST]
    best = min(close, key=lambda way: way.bytes)
    if best.name == "sequential":
        return "Choose --schedule sequential: no other way to do the same training is faster on these nodes."
    why = f"it ends first, {best.speedup:.2f}× as fast as one node"
    if best is not fastest:
        why = f"{best.speedup:.2f}× as fast as one node, as good as the fastest ({fastest.name}), and it sends less"
    said = f"Choose --schedule {best.name}: {why}."
    rival = min((way for way in ways if "backprop" in way.name), key=lambda way: way.seconds)
    return f"{said[:-1]}; {rival.name} would be {_how_fast(rival, best)} and send {_times(rival.bytes, best.bytes)}."


def _how_fast(rival: Way, best: Way) -> str:
    """`1.5× slower`; `as fast` within what makes no difference to the choice."""
    ratio = rival.seconds / best.seconds
    if 1 / _AS_FAST <= ratio <= _AS_FAST:
        return "as fast"
    return f"{ratio:.1f}× slower" if ratio > 1 else f"{1 / ratio:.1f}× faster"


def _times(bytes: int, than: int) -> str:
    if not bytes:
        return "nothing"
    return f"{bytes / than:.3g}× as much" if than else "what it need not"


def _schedules(work: Work) -> Iterator[tuple[BaseSchedule, str]]:
    """The schedules with settings that make a difference, and what makes them another training."""
    yield Sequential(), ""
    yield SingleLayer(), ""
    yield SingleLayer(hand_over="activations"), ""
    if work.judged:
        yield SingleLayer(ranking="shared"), ""
        yield SingleLayer(hand_over="activations", ranking="shared"), ""
    yield AllLayers(), ""
    if work.nodes > 1:
        yield Federated(), f"1/{work.nodes} of the data"
        yield Federated(average=True), "private data"
    yield Dff(), "one step an epoch"


def _flags(schedule: BaseSchedule) -> str:
    """The flags that differ from the schedule's defaults."""
    fields = type(schedule).model_fields
    words = [str(fields["kind"].default)]
    for name, field in fields.items():
        value = getattr(schedule, name)
        if name != "kind" and value != field.default:
            words.append(f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}"))
    return " ".join(words)
