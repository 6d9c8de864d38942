"""A server and its participants, one after the other in this process."""

from __future__ import annotations

import random
from pathlib import Path

from layerline.data.dataset import Dataset
from layerline.run import Run
from layerline.runtime.flower.conductor import Conductor
from layerline.runtime.flower.participant import Answer, Participant, finished_model
from layerline.runtime.leaving import Release
from layerline.runtime.pipeline import Pipeline
from layerline.runtime.planning import planned
from layerline.runtime.saved import weights_sha256
from small_runs import small_data

DATA = small_data(count=61)


class Federation:
    """A server and its participants. `harm`: how often a process ends, an answer is lost or the server starts again;
    then each participant also has two processes that take turns. `answers`: all that were given, lost ones too."""

    def __init__(
        self,
        run: Run,
        folder: Path,
        draw: random.Random,
        *,
        harm: float = 0.0,
        data: Dataset = DATA,
        release: Release | None = None,
    ) -> None:
        self.run, self.folder, self.draw, self.harm, self.data, self.release = run, folder, draw, harm, data, release
        self.plan = planned(run, run.block_count)
        self.answers: list[Answer] = []
        self.warm: dict[tuple[int, int], Participant] = {}
        self.conductor = self.start()

    def start(self) -> Conductor:
        self.pipeline = Pipeline(self.run, self.plan, self.data, self.folder / "server", nodes=())
        return Conductor(self.plan, self.pipeline.slots, differences=self.run.codec.kind == "int8")

    def participant(self, node: int, process: int = 0) -> Participant:
        if (node, process) not in self.warm:
            folder = self.folder / f"participant-{node}"
            self.warm[node, process] = Participant(self.run, self.plan, self.data, node, folder, self.release)
        return self.warm[node, process]

    def harmed(self) -> bool:
        return self.draw.random() < self.harm

    def carry_out(self, holders: dict[int, int] | None = None) -> str:
        holders = holders or {}
        while not self.conductor.finished:
            nodes = list(range(self.plan.nodes))
            self.draw.shuffle(nodes)
            for node in nodes:
                holder = holders.get(node, node)
                order = self.conductor.order(node, holder)
                if order is None:
                    continue
                process = self.draw.randrange(2) if self.harm else 0
                answer = self.participant(node, process).carry_out(order)
                self.answers.append(answer)
                if self.harmed():
                    self.warm.pop((node, process)).close()
                if self.harmed():
                    self.conductor.withdraw(node)
                elif self.harmed():
                    self.conductor = self.start()
                else:
                    self.conductor.take(node, holder, answer)
        for each in self.warm.values():
            each.close()
        return weights_sha256(finished_model(self.pipeline, self.conductor.plan, self.conductor.final()))


def until(federation: Federation, rows: int) -> None:
    """Carry out tasks until so many rows with a lasting result are done."""
    while federation.conductor.done[0] < rows:
        for node in range(federation.plan.nodes):
            order = federation.conductor.order(node, holder=node)
            if order is not None:
                answer = federation.participant(node).carry_out(order)
                federation.answers.append(answer)
                federation.conductor.take(node, node, answer)
