"""A stream by every reach, and pipelined backprop, on the same nodes.

Reaches are carried out in thought, with the run's microbatches. GPipe and 1F1B by their formula, with m = 4 p
microbatches, or as many as the minibatch has examples:

    step        (m + p − 1) · slowest node's microbatch, hops included + update        bubble (p − 1) / (m + p − 1)
    memory      GPipe keeps all m microbatches of activations, 1F1B no more than p
"""

from __future__ import annotations

from layerline.schedules.costs import World
from layerline.schedules.stream import Stream
from layerline.schedules.stream_costs import StreamCosts
from layerline.schedules.stream_simulate import StreamSimulation, simulate_stream
from layerline.schedules.way import Way


def by_reach(name: str, stream: Stream, costs: StreamCosts, world: World, steps: int, note: str) -> Way:
    """One reach, simulated."""
    return way_of(name, simulate_stream(stream, costs, world, steps), note)


def way_of(name: str, found: StreamSimulation, note: str) -> Way:
    """What was simulated, for a table."""
    return Way(
        name,
        found.makespan,
        found.speedup,
        float(found.utilisation.mean()),
        sum(found.link_bytes().values()),
        int(found.begin.memory.max()),
        note,
    )


def pipelines(stream: Stream, costs: StreamCosts, world: World, steps: int, microbatches: int, note: str) -> list[Way]:
    """GPipe and 1F1B. `stream`: with reach all; `costs`: of one of so many microbatches."""
    depth, speeds = stream.nodes, world.speeds or (1.0,) * stream.nodes
    last = stream.reach.blocks - 1
    alone, work, update, kept, owned = 0.0, [], [], [], []
    for blocks, speed in zip(stream.owned, speeds, strict=True):
        product = sum(costs.forward[b] + costs.backward(stream.reach, b, last) for b in blocks)
        change = sum(costs.update[b] for b in blocks)
        alone += microbatches * product + change
        work.append(product / speed)
        update.append(change / speed)
        kept.append(sum(costs.kept[b] for b in blocks))
        owned.append(sum(2 * costs.weights[b] + costs.moments[b] for b in blocks))
    crossing = [costs.outputs[blocks.stop - 1] for blocks in stream.owned[:-1]]  # PyTorch sends them as they are
    hop = max(crossing, default=0) / world.bandwidth
    slot = max(max(work), hop)
    one = (microbatches + depth - 1) * slot + max(update) + 2 * (depth - 1) * (hop + world.latency)
    busy = sum(microbatches * w + u for w, u in zip(work, update, strict=True)) / depth
    ways = []
    for name, under_way in (("GPipe", microbatches), ("1F1B", min(microbatches, depth))):
        memory = max(own + under_way * each for own, each in zip(owned, kept, strict=True))
        sent = steps * 2 * microbatches * sum(crossing)
        said = f"{microbatches} microbatches" + (f", {note}" if note else "")
        ways.append(Way(name, steps * one, alone / one, busy / one, sent, memory, said))
    return ways
