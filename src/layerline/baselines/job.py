"""A run with a method: what is asked of it before it starts, and its part in one process.

Every process carries out one node, as `torch.distributed` has it. Meeting, snapshots, resuming, the result: as of any
stream over nodes (`stream_job`, `stream_member`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

from torch import Tensor

from layerline.baselines.group import process_group
from layerline.baselines.pipeline import PipelineStep, shapes
from layerline.baselines.planning import division_of
from layerline.baselines.replica import ReplicaStep
from layerline.baselines.step import MethodStep
from layerline.baselines.worker import MethodWorker
from layerline.data.text_set import AnySet
from layerline.errors import UsageError
from layerline.events import Listener
from layerline.reporting.run_folder import RunFolder
from layerline.runtime.members import Board, Membership, join_seconds, silence_seconds
from layerline.runtime.stop import Stop
from layerline.runtime.stream.model import StreamModel
from layerline.runtime.stream.node import Noted
from layerline.runtime.stream.planning import costs_of, world_of
from layerline.runtime.stream.worker import Link
from layerline.schedules.costs import ONE_HOST, Machine
from layerline.schedules.division import Division, costs_in
from layerline.schedules.plan import Plan
from layerline.schedules.replicated import Replicated
from layerline.schedules.stream_simulate import StreamSimulation, simulate_stream
from layerline.stream_job import SIMULATED, BaseStreamJob
from layerline.stream_member import Member
from layerline.stream_run import StreamRun
from layerline.transport.base import Transport


@dataclass(frozen=True)
class MethodJob(BaseStreamJob):
    """A run with a method and everything it needs."""

    stream: Division
    travels: Sequence[Tensor] = field(default=(), compare=False)
    """What goes from stage to stage of a pipeline; empty where there are none, or this process is none of several."""

    @cached_property
    def plan(self) -> Plan:
        return self.stream.plan(self.stream.ahead + 1)

    def of(self, member: Membership | None) -> Self:
        if member is None or isinstance(self.stream, Replicated):
            return self
        travels = shapes(self.model, self.stream)  # while the whole network is here
        return replace(self, travels=travels).holding(self.stream.owned[member.rank])

    def sitting(self, folder: RunFolder | None, heard: Listener, stop: Stop, board: Board | None) -> MethodMember:
        assert folder
        assert board  # `refuse_shared`: every node has a process
        return MethodMember(self, folder, heard, stop, board)

    @property
    def title(self) -> str:
        return f"{self.run.preset} · backprop, {self.run.method}"

    def _simulated(self, noted: Sequence[Noted], processes: int, steps: int, link: Link) -> StreamSimulation:
        world = world_of(self.run, ONE_HOST.bandwidth, ONE_HOST.latency)
        costs = costs_in(self.stream, costs_of(self.model, Machine()))
        rows = self.row_seconds(noted, steps)
        return simulate_stream(self.stream, costs, world, steps, measured=rows, at_least=SIMULATED)


class MethodMember(Member):
    """One node in this process, the others elsewhere."""

    job: MethodJob

    def _links(self) -> set[tuple[int, int]]:
        """At the end blocks go to the first process."""
        return {(node, 0) for node in range(1, self.job.stream.nodes)}

    def _to_bring(self, number: int) -> Sequence[int]:
        """A copy of the network is where it is needed already."""
        return () if isinstance(self.job.stream, Replicated) else super()._to_bring(number)

    def _train(self, transport: Transport) -> Link:
        job, member = self.job, self.member
        job.model.train()
        with ExitStack() as stack:
            group = process_group(
                member.store(join_seconds()),
                member.rank,
                member.world,
                generation=self.board.generation,
                host=member.host,
                silence=silence_seconds(),
            )
            stack.enter_context(group)
            step = self._step()
            self._follow(MethodWorker(step, start=self.start, decide=self._decide, save=self._save, stop=self.stop))
        return Link()

    def _step(self) -> MethodStep:
        ((number, node),) = self.nodes.items()
        division = self.job.stream
        if isinstance(division, Replicated):
            return ReplicaStep(self.job.model, node, self.feed, division, number)
        return PipelineStep(self.job.model, node, self.feed, division, number, self.job.travels)


def method_job(run: StreamRun, model: StreamModel, data: AnySet) -> MethodJob:
    """The job of a run with a method over nodes. UsageError for more stages than blocks, and for GPUs."""
    if run.device == "cuda":
        raise UsageError(f"--method {run.method} goes over CPUs so far", hint="choose --device cpu")
    return MethodJob(run, model, data, division_of(model))
