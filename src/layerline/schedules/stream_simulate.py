"""What a stream would take: some steps carried out in thought, the rest by repetition.

Problem: a run has tens of thousands of equal steps. Solution: nothing in a step depends on its number, only on when
the rows and messages of the last steps ended. Where all those of the last steps ended exactly as much later than those
of c steps earlier, everything that follows does, too: the stream is steady, with c steps every so many seconds. So
steps are simulated until that is seen (twice as many each time), and the rest is added exactly. Every minibatch counts
as a full one.

A node holds at a time: weights, gradients and moments of its blocks; of each microbatch under way, from its forward to
its last backward, what the forward left; and what has arrived and was not used yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from layerline.schedules.costs import World
from layerline.schedules.lower import Messages, messages
from layerline.schedules.plan import Action, Carries, Plan
from layerline.schedules.simulate import Simulation, walk
from layerline.schedules.stream import Mark, Stream, loss_of
from layerline.schedules.stream_costs import StreamCosts

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_BACK = (Action.BACKWARD, Action.INPUT_GRADIENT, Action.WEIGHT_GRADIENT)
"""Rows that need what a forward left."""
_CYCLES = 8  # steps in a cycle, at most, that are looked for
_SAME = 1e-9  # of the time so far: what rounding may make of equal differences


@dataclass(frozen=True, eq=False)
class StreamSimulation:
    """A stream in time. All in seconds and bytes."""

    begin: Simulation
    """The steps that were carried out in thought."""
    steps: int
    makespan: float
    """Of all steps."""
    step_seconds: float
    """From a step to the next, once it is steady."""
    activations: Ints
    """The most each node holds at a time of outputs and gradients, kept or waiting."""

    @property
    def busy(self) -> Floats:
        """Seconds each node computes, in all steps."""
        return self.begin.busy / self.begin.plan.chapters * self.steps

    @property
    def utilisation(self) -> Floats:
        """Fraction of the makespan each node computes."""
        return self.busy / (self.makespan or 1.0)

    @property
    def sequential(self) -> float:
        """What one node of speed 1 takes by itself."""
        return self.begin.sequential / self.begin.plan.chapters * self.steps

    @property
    def speedup(self) -> float:
        """Over one node of speed 1."""
        return self.sequential / self.makespan if self.makespan else 1.0

    def alike(self, step: int) -> tuple[int, float]:
        """The simulated step that goes as step `step` of all does, and how many seconds earlier it is.

        For the steps at both ends: of those between it is only known how long they take.
        """
        count = self.begin.plan.chapters
        if step < count // 2 or self.steps <= count:
            return step, 0.0
        return count - (self.steps - step), self.makespan - float(self.begin.end.max())

    def link_bytes(self) -> dict[tuple[int, int], int]:
        """Bytes over each link, (sender, receiver), in all steps."""
        each = self.begin.plan.chapters
        return {link: count // each * self.steps for link, count in self.begin.link_bytes().items() if count}


class AnyStream(Protocol):
    """Steps that are repeated: a stream by its own plan, or by somebody else's lists."""

    @property
    def nodes(self) -> int:
        """Logical nodes."""

    @property
    def owned(self) -> Sequence[Sequence[int]]:
        """The blocks of each node."""

    @property
    def ahead(self) -> int:
        """Steps that a node may be ahead of the next one."""

    def order(self) -> list[Mark]:
        """The rows of one step."""

    def plan(self, steps: int) -> Plan:
        """The plan of so many steps."""


def simulate_stream(
    stream: AnyStream,
    costs: StreamCosts,
    world: World,
    steps: int,
    *,
    places: Sequence[int] = (),
    measured: Floats | None = None,
    at_least: int = 0,
) -> StreamSimulation:
    """Carry a stream out in thought.

    `places`: the process of every node, where some take turns; then everything is told of processes. `measured`:
    seconds of each row of a step, where they are known. `at_least`: steps to simulate.
    """
    count = min(steps, max(at_least, 4 * (stream.nodes + stream.ahead)))
    while True:
        plan = stream.plan(count)
        alone = np.tile(measured, count) if measured is not None else _row_seconds(plan, stream, costs)
        if places:
            plan = replace(plan, node=np.array(places, np.int32)[plan.node], nodes=max(places) + 1)
        found, activations = _carried_out(plan, alone, costs, world)
        cycle = _cycle(found, stream.ahead)
        if count >= steps or cycle:
            break
        count = min(steps, 2 * count)
    last = found.end.reshape(count, -1).max(1)
    length, later = cycle or (1, float(last[-1] - last[-2]) if count > 1 else float(last[-1]))
    makespan = float(last[-1])
    if steps > count:
        at = count - length + (steps - count + length - 1) % length
        makespan = float(last[at]) + (steps - 1 - at) // length * later
    return StreamSimulation(found, steps, makespan, later / length, activations)


def _carried_out(plan: Plan, alone: Floats, costs: StreamCosts, world: World) -> tuple[Simulation, Ints]:
    """`alone`: what each row takes on a node of speed 1."""
    sent = messages(plan)
    seconds = alone / np.array(world.speeds)[plan.node] if world.speeds else alone
    size = _message_bytes(plan, sent, costs, world)
    start, end, leave, arrive = walk(plan, sent, seconds, size / world.bandwidth, world.latency)
    activations = _peak(plan, sent, costs, start, end, arrive)
    per_block = np.array([2 * w + m for w, m in zip(costs.weights, costs.moments, strict=True)])
    owned = np.bincount(_places(plan), per_block, plan.nodes)
    found = Simulation(
        plan=plan,
        messages=sent,
        seconds=seconds,
        start=start,
        end=end,
        leave=leave,
        arrive=arrive,
        bytes=size,
        memory=(activations + owned).astype(np.int64),
        sequential=float(alone.sum()),
    )
    return found, activations


def _places(plan: Plan) -> NDArray[np.int32]:
    """The node of each block."""
    places = np.zeros(plan.blocks, np.int32)
    places[plan.stage] = plan.node
    return places


def _row_seconds(plan: Plan, stream: AnyStream, costs: StreamCosts) -> Floats:
    """What each row takes on a node of speed 1, where its own plan says which loss trains which block."""
    assert isinstance(stream, Stream)
    reach = stream.reach
    back = np.zeros((plan.blocks, plan.blocks))
    for block in range(plan.blocks):
        for loss in reach.at(block):
            back[block, loss] = costs.backward(reach, block, loss)
    seconds = np.array(costs.forward)[plan.stage]
    backward, update = plan.action == Action.BACKWARD, plan.action == Action.UPDATE
    seconds[backward] = back[plan.stage, loss_of(plan)][backward]
    seconds[update] = np.array(costs.update)[plan.stage[update]]
    return seconds


def _message_bytes(plan: Plan, sent: Messages, costs: StreamCosts, world: World) -> Ints:
    """What each message has on the wire. Weights that heads follow are never rounded."""
    exact = (sent.carries == Carries.WEIGHTS) & bool(costs.followed)
    share = np.where(sent.carries == Carries.GRADIENTS, world.gradients, np.where(exact, 1.0, world.codec))
    return np.rint(_brought(plan, sent, costs) * share).astype(np.int64)


def _brought(plan: Plan, sent: Messages, costs: StreamCosts) -> Ints:
    """Bytes of what each message brings: outputs, a gradient at the output of the block below, or weights."""
    outputs = np.array([*costs.outputs, 0], np.int64)  # a first block sends nothing down
    size: Ints = outputs[plan.stage[sent.source] - (sent.carries == Carries.GRADIENTS)]
    if costs.followed:
        followed = np.array(costs.followed, np.int64)[plan.stage[sent.source]]
        size = np.where(sent.carries == Carries.WEIGHTS, followed, size)
    return np.where(sent.carries == Carries.TURN, 0, size)


def _cycle(found: Simulation, ahead: int) -> tuple[int, float] | None:
    """How many steps repeat, and how long they take; None where the stream is not steady yet."""
    steps = found.plan.chapters
    ends = np.concatenate((found.end.reshape(steps, -1), _arrivals(found, ahead)), 1)
    for length in range(1, _CYCLES + 1):
        if steps < 2 * ahead + length + 2:
            return None
        look = slice(steps - 2 * ahead - 1, steps - ahead)
        later = ends[look] - ends[look.start - length : look.stop - length]
        if float(np.ptp(later)) <= _SAME * found.makespan:
            return length, float(later.mean())
    return None


def _arrivals(found: Simulation, ahead: int) -> Floats:
    """When the messages of each step arrived. The last steps have fewer, and are not looked at."""
    plan, sent = found.plan, found.messages
    step = plan.chapter[sent.source]
    each = int(np.count_nonzero(step == 0))
    arrivals = np.repeat(found.end.reshape(plan.chapters, -1).max(1)[:, None], each, 1)
    whole = step < max(0, plan.chapters - ahead)
    if each and whole.any():
        arrivals[: plan.chapters - ahead] = found.arrive[whole].reshape(-1, each)
    return arrivals


def _peak(
    plan: Plan, sent: Messages, costs: StreamCosts, start: Floats, end: Floats, arrive: Floats
) -> NDArray[np.int64]:
    """The most each node holds at a time of activations and their gradients."""
    forward = np.flatnonzero(plan.action == Action.FORWARD)
    last = np.zeros(len(plan))
    used = np.isin(plan.action[plan.target], _BACK) & (plan.carries == Carries.OUTPUTS)
    np.maximum.at(last, plan.source[used], end[plan.target[used]])
    size = _brought(plan, sent, costs)
    held = np.array(costs.kept)[plan.stage[forward]]
    times = np.concatenate((start[forward], last[forward], arrive, start[sent.needed]))
    change = np.concatenate((held, -held, size, -size))
    node = np.concatenate((plan.node[forward], plan.node[forward], sent.receiver, sent.receiver))
    peaks = np.zeros(plan.nodes, np.int64)
    for number in range(plan.nodes):
        own = np.flatnonzero(node == number)
        order = own[np.lexsort((change[own], times[own]))]  # what goes, goes first
        peaks[number] = int(np.cumsum(change[order]).max(initial=0))
    return peaks
