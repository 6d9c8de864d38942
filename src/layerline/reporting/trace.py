"""`trace.json`: what every node did when, in Chrome's trace format, for https://ui.perfetto.dev.

    node 1   compute    block 1, chapter 1, train │ hand over │ forward │ block 2, chapter 1, train …
             send       ▪ block 1, chapter 1, state → node 2
             receive
    node 2   compute             block 1, chapter 2, train …
             receive    ▪ block 1, chapter 1, state ← node 1

Waiting is what lies between the bars. A node is a process of the trace, a lane one of its threads; a lane that would
have two messages at a time (of two links) gets a second one beside it. Arrows lead from sending to receiving.

Of a stream, whose steps are thousands, some at the beginning are there and the last: bars are `block 2, step 5,
microbatch 1, forward`; with a method of PyTorch's `stage 2, …`, or `copy 2, …`. Of blocks that run freely, the first
steps and the last of each node: `block 2, step 5, train`.

Sittings of a run that was stopped or killed follow one another without the time between them. Rows that were in
flight when a sitting ended are not there: nobody noted them. Nor are messages that were still on their way when a
node's last row was noted.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from layerline.files import write_text
from layerline.schedules.free_running import SCHEDULE as FREE
from layerline.schedules.plan import Action, Plan
from layerline.schedules.replicated import SCHEDULE as DDP
from layerline.schedules.stream import SCHEDULE as STREAM

Facts = Mapping[int, Sequence[Mapping[str, Any]]]
"""What each node noted, a table a row: row, sitting, begin, end, handed, bytes, transfers, metrics."""

_COMPUTE, _SEND, _RECEIVE = 0, 1_000, 1_000_000  # numbers of lanes; those between are for messages that overlap
_LANES = {_COMPUTE: "compute", _SEND: "send", _RECEIVE: "receive"}
_NAMES = {
    Action.TRAIN: "train",
    Action.FORWARD: "forward",
    Action.NEGATIVES: "rank",
    Action.BACKWARD: "backward",
    Action.UPDATE: "update",
    Action.INPUT_GRADIENT: "gradient of the input",
    Action.WEIGHT_GRADIENT: "gradient of the weights",
}


def write_trace(path: Path, plan: Plan, facts: Facts, title: str) -> None:
    """Write the file. LayerlineError where that is not possible."""
    table = {"displayTimeUnit": "ms", "otherData": {"run": title}, "traceEvents": trace_events(plan, facts)}
    write_text(path, json.dumps(table, ensure_ascii=False, separators=(",", ":")) + "\n")


def trace_events(plan: Plan, facts: Facts) -> list[dict[str, Any]]:
    """The events: names of the lanes, then everything that happened. Times in microseconds from the start."""
    told, begins = on_one_clock(facts)
    events = [_name(node, None, f"node {node + 1}") for node in range(plan.nodes)]
    for number, begin in enumerate(begins[1:], 2):
        sitting = {"ph": "i", "s": "g", "name": f"sitting {number}", "pid": 1, "tid": 0}
        events.append(sitting | {"ts": round(begin * 1e6)})
    for node, each in told.items():
        lanes = dict(_LANES)
        bars = [*_computing(plan, node, each), *_messages(plan, node, each, lanes)]
        events += [*(_name(node, lane, name) for lane, name in sorted(lanes.items())), *bars]
    return events


def on_one_clock(facts: Facts) -> tuple[dict[int, list[dict[str, Any]]], list[float]]:
    """The same facts in seconds from the start, sittings one after another; and where each sitting begins."""
    every = [fact for told in facts.values() for fact in told]
    shifts: dict[int, float] = {}
    begins, at = [], 0.0
    for sitting in sorted({fact["sitting"] for fact in every}):
        times = [span for fact in every if fact["sitting"] == sitting for span in _spans(fact)]
        begin = min(span[0] for span in times)
        shifts[sitting] = at - begin
        begins.append(at)
        at += max(span[1] for span in times) - begin
    shifted = {
        node: [_shifted(fact, shifts[fact["sitting"]]) for fact in told if fact["sitting"] in shifts]
        for node, told in facts.items()
    }
    return shifted, begins


def _spans(fact: Mapping[str, Any]) -> list[tuple[float, float]]:
    return [(fact["begin"], fact["handed"]), *((each[0], each[1]) for each in fact["transfers"])]


def _shifted(fact: Mapping[str, Any], by: float) -> dict[str, Any]:
    times = {name: fact[name] + by for name in ("begin", "end", "handed")}
    return {**fact, **times, "transfers": [[each[0] + by, each[1] + by, *each[2:]] for each in fact["transfers"]]}


def kind_of_stage(plan: Plan) -> str:
    """What the plan's stages are: blocks; with a method of PyTorch's copies of the network, or some blocks each."""
    if not plan.streams or plan.schedule == STREAM:
        return "block"
    return "copy" if plan.schedule == DDP else "stage"


def row_name(plan: Plan, row: int) -> str:
    """`block 2, chapter 5, train`, or in a stream `block 2, step 5, microbatch 1, backward of loss 3`; all from 1."""
    action = Action(plan.action[row])
    which = action == Action.BACKWARD and plan.schedule == STREAM  # a pipeline has one loss
    loss = f" of loss {plan.stage[row] + plan.shard[row] // plan.shards + 1}" if which else ""
    return f"{slot_name(plan, row)}, {_NAMES[action]}{loss}"


def slot_name(plan: Plan, row: int) -> str:
    """`block 2, chapter 5`, `head, chapter 5`, or `labels, chapter 5`, the new negatives after it."""
    stage = int(plan.stage[row])
    made = plan.action[row] == Action.NEGATIVES
    what = "labels" if made else "head" if stage == plan.blocks else f"{kind_of_stage(plan)} {stage + 1}"
    if plan.schedule == FREE:
        return f"{what}, step {plan.round[row] + 1}"
    if not plan.streams:
        return f"{what}, {plan.when(row)}"
    whole = plan.shards == 1 or plan.action[row] == Action.UPDATE
    part = "" if whole else f", microbatch {plan.shard[row] % plan.shards + 1}"
    return f"{what}, step {plan.chapter[row] + 1}{part}"


def _computing(plan: Plan, node: int, told: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """A bar for every row, and one for making its result durable."""
    for fact in told:
        row = fact["row"]
        numbers = {"row": row} | {f"loss, epoch {m['epoch']}": m["loss"] for m in fact["metrics"]}
        name = f"up to {plan.when(row)}" if plan.by_batch else row_name(plan, row)
        yield _bar(node, _COMPUTE, name, fact["begin"], fact["end"], numbers)
        if fact["durable"]:
            yield _bar(node, _COMPUTE, f"{slot_name(plan, row)}, hand over", fact["end"], fact["handed"], {"row": row})


def _messages(
    plan: Plan, node: int, told: Sequence[Mapping[str, Any]], lanes: dict[int, str]
) -> Iterator[dict[str, Any]]:
    """The bars of sending and receiving, and the ends of the arrows between them. Adds lanes where messages overlap."""
    moved = sorted((*transfer, fact["sitting"]) for fact in told for transfer in fact["transfers"])
    free: dict[int, float] = {}
    for begin, end, row, carries, peer, count, direction, sitting in moved:
        sends = direction == "send"
        first = _SEND if sends else _RECEIVE
        lane = next(lane for lane in itertools.count(first) if free.get(lane, 0.0) <= begin)
        free[lane] = end
        lanes.setdefault(lane, f"{_LANES[first]} {lane - first + 1}")
        name = f"{slot_name(plan, row)}, {carries} {'→' if sends else '←'} node {peer + 1}"
        bar = _bar(node, lane, name, begin, end, {"row": row, "bytes": count})
        yield bar
        sender, receiver = (node, peer) if sends else (peer, node)
        arrow = {"cat": "message", "name": carries, "id": f"{sitting}.{row}.{carries}.{sender}.{receiver}"}
        arrow |= {"ph": "s"} if sends else {"ph": "f", "bp": "e"}
        yield arrow | {name: bar[name] for name in ("pid", "tid", "ts")}


def _bar(node: int, lane: int, name: str, begin: float, end: float, numbers: dict[str, Any]) -> dict[str, Any]:
    start, stop = round(begin * 1e6), round(end * 1e6)
    where = {"pid": node + 1, "tid": lane, "ts": start, "dur": max(0, stop - start)}
    return {"ph": "X", "cat": "compute" if lane == _COMPUTE else "message", "name": name, **where, "args": numbers}


def _name(node: int, lane: int | None, name: str) -> dict[str, Any]:
    what = "process_name" if lane is None else "thread_name"
    return {"ph": "M", "name": what, "pid": node + 1, "tid": lane or 0, "args": {"name": name}}
