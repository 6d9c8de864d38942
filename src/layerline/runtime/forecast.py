"""What a run over nodes should take here, to lay beside what it took.

    costs   measured before the run, by every process at the same time, each on its own cores; averaged
            or, of a run of seconds, and of modules of one's own, what the slots of the first chapter took
    nodes   that one process carries out take turns: the plan is simulated on processes, not on nodes
    links   as fast as the messages of the run went; before it, as the planner assumes

Handing over and keeping a result count as part of a slot: it is encoded for its readers before the next row begins, and
written to disk beside it, on the same core.
The measurement takes about a fiftieth of the run and three seconds at most; what it found stays with the run, in
`slots/costs.json`, so a run that goes on is held against the same prediction.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from layerline.data.dataset import Dataset
from layerline.data.own import OwnData
from layerline.files import scratch, write_text
from layerline.run import Run
from layerline.runtime.measure import measure
from layerline.runtime.planning import sizes_of
from layerline.runtime.slots import Slots
from layerline.schedules.costs import ON_THE_WIRE, ONE_HOST, Costs, Machine, Sizes, World, estimate, even
from layerline.schedules.plan import Action, Plan
from layerline.schedules.simulate import Simulation, simulate

LONGEST, SHARE = 3.0, 0.02
"""A measurement's seconds at most, and its part of the run."""
SHORT = 5.0
"""Seconds of a run that is too short to measure anything before it."""
LARGE = 100_000
"""Bytes of a message that says how fast a link is."""

Facts = Mapping[int, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Forecast:
    """A run's prediction; `places`: the process of every node."""

    run: Run
    plan: Plan
    places: Sequence[int]
    data: Dataset | OwnData
    slots: Slots

    def worth_measuring(self) -> bool:
        """Whether the run is long enough, by the formula for an assumed, fast machine. The same in every process."""
        return self._sizes is not None and self.run.device == "cpu" and self._seconds() >= SHORT

    def measured(self) -> Costs:
        """Slot costs of this process, measured now."""
        sizes = self._sizes
        assert sizes is not None
        budget = min(LONGEST, SHARE * self._seconds())
        with scratch(self.slots.folder) as path, torch.random.fork_rng(devices=[]):
            place = Slots(path, {})

            def keep(tensors: dict[str, torch.Tensor]) -> None:
                place.save(0, tensors)
                place.tell(0, {"durable": True})

            return measure(self.run, self.data.shape, sizes, budget=budget, keep=keep)

    def note(self, found: Sequence[Costs]) -> None:
        """Leave the mean of all processes' costs with the run; and how fast each is, if they are said to differ."""
        mean = replace(
            found[0],
            train=tuple(np.mean([costs.train for costs in found], axis=0).tolist()),
            forward=tuple(np.mean([costs.forward for costs in found], axis=0).tolist()),
            ranking=float(np.mean([costs.ranking for costs in found])),
        )
        speeds = [sum(mean.train) / sum(costs.train) for costs in found] if self.run.speeds else []
        noted = {"costs": asdict(mean), "speeds": speeds}
        write_text(self._file, json.dumps(noted) + "\n")

    def before(self) -> Simulation:
        """The plan in time, as far as it is known before the run."""
        costs, speeds = self._noted() or (self._assumed(), ())
        return self._simulated(costs, replace(ONE_HOST, speeds=speeds))

    def after(self, facts: Facts) -> tuple[Simulation, str]:
        """The plan in time, and where its costs come from: "calibration" or "first chapter"."""
        noted = self._noted()
        costs, speeds = noted or (first_chapter(self.plan, facts, self._assumed()), ())
        bandwidth, latency = _link(facts)
        world = World(bandwidth=bandwidth, latency=latency, speeds=speeds)
        return self._simulated(costs, world), "calibration" if noted else "first chapter"

    @property
    def _file(self) -> Path:
        return self.slots.folder / "costs.json"

    def _noted(self) -> tuple[Costs, tuple[float, ...]] | None:
        """What was measured at the start; nothing where the run goes on over another number of processes of unlike
        speeds."""
        try:
            costs, speeds = read_costs(self._file)
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return (costs, speeds) if not speeds or len(speeds) == max(self.places) + 1 else None

    @property
    def _sizes(self) -> Sizes | None:
        return sizes_of(self.run, self.data.shape, self.data.num_classes, self.data.examples)

    def _assumed(self) -> Costs:
        return even(self.run.work(self.plan.blocks)) if self._sizes is None else estimate(self._sizes, Machine())

    def _seconds(self) -> float:
        return self._simulated(self._assumed(), World()).makespan

    def _simulated(self, costs: Costs, world: World) -> Simulation:
        codec, moments = ON_THE_WIRE[self.run.codec.kind], self.run.send_optimizer_state
        world = replace(world, codec=codec, moments_travel=moments)
        return simulate(on_processes(self.plan, self.places), costs, world)


def read_costs(path: Path) -> tuple[Costs, tuple[float, ...]]:
    """The content of `slots/costs.json`: slot costs, and how fast each process is if they are said to differ."""
    noted = json.loads(path.read_text(encoding="utf-8"))
    numbers: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in noted["costs"].items()}
    return Costs(**numbers), tuple(noted["speeds"])


def on_processes(plan: Plan, places: Sequence[int]) -> Plan:
    """The plan whose nodes are processes: each carries out the rows of its nodes, in the plan's order."""
    return replace(plan, node=np.array(places, dtype=np.int32)[plan.node], nodes=max(places) + 1)


def first_chapter(plan: Plan, facts: Facts, below: Costs) -> Costs:
    """What the slots of the first chapter took, on average; of all chapters for what the first has none of.

    `below` says how much travels.
    """
    spent: dict[tuple[int, int, bool], list[float]] = {}
    for told in facts.values():
        for fact in told:
            if "spent" in fact:  # rows of many minibatches, noted together
                for action, stage, count, seconds in fact["spent"]:
                    times = 1 if action == Action.NEGATIVES else plan.rounds_per_chapter
                    spent.setdefault((action, stage, False), []).append(seconds / count * times * plan.shards)
                continue
            row = fact["row"]
            part = 1.0 if plan.action[row] != Action.NEGATIVES else plan.shares[int(plan.shard[row]) % plan.parts]
            seconds = (fact["handed"] - fact["begin"]) * plan.shards / (part or 1.0)
            for first in {bool(plan.chapter[row] == 0), False}:
                spent.setdefault((int(plan.action[row]), int(plan.stage[row]), first), []).append(seconds)

    def mean(action: Action, stage: int) -> float:
        found = spent.get((action, stage, True)) or spent.get((action, stage, False)) or [0.0]
        return float(np.mean(found))

    return replace(
        below,
        train=tuple(mean(Action.TRAIN, stage) for stage in range(plan.stages)),
        forward=tuple(mean(Action.FORWARD, stage) for stage in range(plan.blocks)),
        ranking=mean(Action.NEGATIVES, 0),
    )


def _link(facts: Facts) -> tuple[float, float]:
    """Bytes a second of large messages, as they arrived (as the planner assumes where there were none); latency."""
    received = [t for told in facts.values() for fact in told for t in fact["transfers"] if t[6] == "receive"]
    large = [(t[5], t[1] - t[0]) for t in received if t[5] >= LARGE]
    seconds = sum(spent for _, spent in large)
    return sum(count for count, _ in large) / seconds if seconds > 0 else ONE_HOST.bandwidth, ONE_HOST.latency
