"""What a plan would take: every row's start and end, and what follows from them.

    node     rows one after the other, in the plan's order; each starts when its node is free and its inputs are there
    card     a node's messages leave one after the other, in the order of sending, beside its computing
             (one of no bytes to speak of slips through between their packets)
    window   nor before its readers are so far that it does not run ahead of them
    message  leaves when its row ends (a block is on its way while its node still forwards), arrives a latency later

What is left out: queues are as long as they get, receiving costs nothing, and computing is not slowed by sending.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layerline.schedules.costs import Costs, World
from layerline.schedules.lower import Messages, messages
from layerline.schedules.memory import peak_memory
from layerline.schedules.plan import Action, Carries, Plan
from layerline.schedules.window import Window, window

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Simulation:
    """A plan in time. All in seconds and bytes."""

    plan: Plan
    messages: Messages
    seconds: Floats
    """What each row takes."""
    start: Floats
    end: Floats
    leave: Floats
    """When each message begins to leave."""
    arrive: Floats
    bytes: NDArray[np.int64]
    """Of each message."""
    memory: NDArray[np.int64]
    """The most each node holds at a time."""
    sequential: float
    """What one node of speed 1 takes by itself for as many images."""

    @property
    def makespan(self) -> float:
        """From the start to the end of the last row."""
        return float(self.end.max())

    @property
    def speedup(self) -> float:
        """Over one node of speed 1 that trains as many images as this plan does."""
        return self.sequential / self.makespan if self.makespan else 1.0

    @property
    def busy(self) -> Floats:
        """Seconds each node computes."""
        busy: Floats = np.bincount(self.plan.node, self.seconds, self.plan.nodes).astype(np.float64)
        return busy

    @property
    def utilisation(self) -> Floats:
        """Fraction of the makespan each node computes."""
        return self.busy / (self.makespan or 1.0)

    @property
    def idle(self) -> Floats:
        """Seconds each node waits."""
        return self.makespan - self.busy

    def link_bytes(self) -> dict[tuple[int, int], int]:
        """Bytes over each link, (sender, receiver)."""
        link = self.messages.sender.astype(np.int64) * self.plan.nodes + self.messages.receiver
        links, which = np.unique(link, return_inverse=True)
        totals = np.bincount(which, self.bytes)
        return {divmod(int(k), self.plan.nodes): int(b) for k, b in zip(links, totals, strict=True)}


def simulate(plan: Plan, costs: Costs, world: World, sent: Messages | None = None) -> Simulation:
    """Carry a plan out in thought."""
    sent = messages(plan) if sent is None else sent
    seconds = row_seconds(plan, costs, world.speeds)
    size = message_bytes(plan, sent, costs, world)
    start, end, leave, arrive = walk(plan, sent, seconds, size / world.bandwidth, world.latency, window(plan, sent))
    return Simulation(
        plan=plan,
        messages=sent,
        seconds=seconds,
        start=start,
        end=end,
        leave=leave,
        arrive=arrive,
        bytes=size,
        memory=peak_memory(plan, costs, world),
        sequential=sequential_seconds(plan, costs),
    )


def row_seconds(plan: Plan, costs: Costs, speeds: tuple[float, ...] = ()) -> Floats:
    """What each row takes on its node."""
    stages = plan.stages
    table = np.zeros((len(Action), stages))
    table[Action.TRAIN] = costs.train
    table[Action.FORWARD, : plan.blocks] = costs.forward
    table[Action.NEGATIVES] = costs.ranking
    table[[Action.TRAIN, Action.FORWARD]] /= plan.rounds_per_chapter
    seconds = table[plan.action, plan.stage] / plan.shards
    if plan.parts > 1:
        made = plan.action == Action.NEGATIVES
        seconds[made] *= np.array(plan.shares)[plan.shard[made] % plan.parts]
    return seconds / np.array(speeds)[plan.node] if speeds else seconds


def message_bytes(plan: Plan, sent: Messages, costs: Costs, world: World) -> NDArray[np.int64]:
    """What each message has on the wire."""
    weights = np.array(costs.weights) * world.codec
    table = np.zeros((len(Carries), plan.stages))
    table[Carries.STATE] = weights + np.array(costs.moments) * world.moments_travel
    table[Carries.WEIGHTS] = weights
    table[Carries.OUTPUTS, : plan.blocks] = np.array(costs.outputs) / plan.shards / plan.rounds_per_chapter
    table[Carries.LABELS] = costs.labels / plan.shards
    size = table[sent.carries, plan.stage[sent.source]]
    labels = sent.carries == Carries.LABELS
    size[labels] *= np.array(plan.shares)[plan.shard[sent.source[labels]] % plan.parts]
    return np.rint(size).astype(np.int64)


def sequential_seconds(plan: Plan, costs: Costs) -> float:
    """One node of speed 1, Sequential, for as many passes over images as the plan makes."""
    whole = sum(costs.train) + sum(costs.forward[: plan.blocks - 1])
    ranked = plan.chapters - 1 if (plan.action == Action.NEGATIVES).any() else 0
    slots = np.count_nonzero((plan.action == Action.TRAIN) & (plan.stage == 0))
    return (whole * plan.chapters + costs.ranking * ranked) * slots / plan.rounds / plan.shards


def walk(
    plan: Plan, sent: Messages, seconds: Floats, wire: Floats, latency: float, within: Window | None = None
) -> tuple[Floats, Floats, Floats, Floats]:
    """Start and end of each row, departure and arrival of each message. None: nodes run ahead as far as they can."""
    by_need = np.argsort(sent.needed, kind="stable")
    beyond = [len(plan)]  # no row has this number: the end of the lists needs no check
    source, needed = sent.source.tolist() + beyond, sent.needed[by_need].tolist() + beyond
    incoming, on_wire = by_need.tolist(), wire.tolist()
    held, after = (within.row.tolist() + beyond, within.after.tolist()) if within else (beyond, [])
    free, card = [0.0] * plan.nodes, [0.0] * plan.nodes
    ends, leave, arrive = [0.0] * len(plan), [0.0] * len(sent), [0.0] * len(sent)
    come = gone = waits = 0
    for row, (node, takes) in enumerate(zip(plan.node.tolist(), seconds.tolist(), strict=True)):
        now = free[node]
        while needed[come] == row:
            there = arrive[incoming[come]]
            if there > now:
                now = there
            come += 1
        while held[waits] == row:
            there = ends[after[waits]] + latency
            if there > now:
                now = there
            waits += 1
        ends[row] = free[node] = now = now + takes
        while source[gone] == row:
            leave[gone] = begin = max(card[node], now) if on_wire[gone] else now
            arrive[gone] = begin + on_wire[gone] + latency
            card[node] = max(card[node], begin + on_wire[gone])
            gone += 1
    end = np.array(ends)
    return end - seconds, end, np.array(leave), np.array(arrive)
