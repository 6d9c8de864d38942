"""A stream over nodes, by its own plan: what is asked of it before it starts, and who carries it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from layerline.data.text_set import AnySet
from layerline.errors import UsageError
from layerline.events import Listener
from layerline.free_sitting import FreeAlone, FreeMember
from layerline.reporting.gantt_free import draw_free
from layerline.reporting.gantt_run import can_draw
from layerline.reporting.run_folder import RunFolder
from layerline.reporting.trace import write_trace
from layerline.runtime.members import Board, Membership, placement
from layerline.runtime.stop import Stop
from layerline.runtime.stream.free_recording import free_timeline
from layerline.runtime.stream.model import StreamModel
from layerline.runtime.stream.node import Noted
from layerline.runtime.stream.planning import costs_of, stream_of, world_of
from layerline.runtime.stream.worker import Link
from layerline.schedules.costs import ONE_HOST, Machine
from layerline.schedules.plan import Plan
from layerline.schedules.stream import Stream
from layerline.schedules.stream_simulate import StreamSimulation, simulate_stream
from layerline.schedules.stream_validate import validate_stream
from layerline.schedules.timing import Async, Recorded
from layerline.stream_job import SIMULATED, BaseStreamJob, Sitting, shares_of
from layerline.stream_member import Member
from layerline.stream_run import StreamRun
from layerline.stream_sitting import Alone
from layerline.transport.boundary import Plain
from layerline.transport.codecs import Fp32


@dataclass(frozen=True)
class StreamJob(BaseStreamJob):
    """A stream over nodes, by its own plan."""

    stream: Stream

    @cached_property
    def plan(self) -> Plan:
        plan = self.stream.plan(self.stream.ahead + 1)
        validate_stream(plan, self.stream.reach, self.stream.window, self.stream.takers)
        return plan

    def of(self, member: Membership | None) -> Self:
        if member is None:
            return self
        places = placement(self.plan, member.world)
        return self.holding({b for b in range(self.stream.reach.blocks) if places[self.stream.node(b)] == member.rank})

    def sitting(self, folder: RunFolder | None, heard: Listener, stop: Stop, board: Board | None) -> Sitting:
        free = isinstance(self.run.timing, Async)
        if folder and board:
            return (FreeMember if free else Member)(self, folder, heard, stop, board)
        return (FreeAlone if free else Alone)(self, folder, heard, stop)

    @property
    def title(self) -> str:
        how = "blocks that run freely" if isinstance(self.run.timing, Async) else f"stream, reach {self.run.reach}"
        return f"{self.run.preset} · {how}"

    def draw(self, folder: RunFolder, noted: Sequence[Noted], processes: int, steps: int, link: Link) -> bool:
        if not isinstance(self.run.timing, Async):
            return super().draw(folder, noted, processes, steps, link)
        if not any(each.recording.rows for each in noted):
            return True
        plan, facts = free_timeline([each.recording for each in noted], len(self.model.blocks))
        write_trace(folder.path / "trace.json", plan, facts, self.title)
        if not can_draw():
            return False
        draw_free(plan, facts, shares_of(noted), folder.path / "gantt.svg", self.title)
        return True

    def _simulated(self, noted: Sequence[Noted], processes: int, steps: int, link: Link) -> StreamSimulation:
        bandwidth = link.bytes / link.seconds if link.seconds else ONE_HOST.bandwidth
        world = world_of(self.run, bandwidth, ONE_HOST.latency)
        costs, places = costs_of(self.model, Machine()), placement(self.plan, processes)
        rows = self.row_seconds(noted, steps)
        return simulate_stream(self.stream, costs, world, steps, places=places, measured=rows, at_least=SIMULATED)


def stream_job(run: StreamRun, model: StreamModel, data: AnySet) -> StreamJob:
    """The job of a stream over nodes. UsageError for more nodes than blocks, and for what several nodes cannot do."""
    refuse_apart(run, model)
    return StreamJob(run, model, data, stream_of(model))


def refuse_apart(run: StreamRun, model: StreamModel) -> None:
    """UsageError for what several nodes cannot do with a stream."""
    if isinstance(run.timing, Recorded):
        raise UsageError("a recorded order is done again by one node", hint="choose --nodes 1")
    if isinstance(run.timing, Async):
        run.timing.factors(len(model.blocks))
        if not isinstance(run.codec, Fp32):
            raise UsageError(
                f"--codec {run.codec.kind} is for nodes that wait for each other",
                hint="blocks that run freely learn from what their buffers hold: --boundary says how it is coded",
            )
    if not isinstance(run.boundary, Plain) and not isinstance(run.codec, Fp32):
        raise UsageError(
            f"--codec {run.codec.kind} would round what --boundary {run.boundary.kind} has coded",
            hint="leave out --codec: coded outputs travel as they are",
        )
