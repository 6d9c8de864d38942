"""A stream over nodes, from its plan to its result.

    alone      one process carries out all nodes
    member     this process carries out some nodes; rank 0 puts the result together
    launcher   this process starts the members, and reads what rank 0 left (see `team`)

What the first two do is told in `stream_sitting`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np

from layerline.data.text_set import AnySet, TextSet
from layerline.errors import UsageError
from layerline.events import Event, Listener, Row
from layerline.free_sitting import FreeAlone, FreeMember
from layerline.planned import Outcome
from layerline.reporting.gantt_free import draw_free
from layerline.reporting.gantt_run import can_draw
from layerline.reporting.gantt_stream import draw_stream
from layerline.reporting.run_folder import RunFolder
from layerline.reporting.trace import write_trace
from layerline.runtime.members import Board, Membership, join_seconds, placement
from layerline.runtime.memory import kept_memory
from layerline.runtime.stop import Stop
from layerline.runtime.stream.crossing import crossings
from layerline.runtime.stream.cuts import Cuts, newest
from layerline.runtime.stream.free_recording import free_timeline
from layerline.runtime.stream.model import StreamModel
from layerline.runtime.stream.node import Noted
from layerline.runtime.stream.planning import costs_of, stream_of, world_of
from layerline.runtime.stream.recording import recorded_steps, timeline
from layerline.runtime.stream.worker import Link
from layerline.runtime.threads import compute_threads
from layerline.schedules.costs import ONE_HOST, Machine
from layerline.schedules.plan import Plan
from layerline.schedules.stream import Stream
from layerline.schedules.stream_simulate import AnyStream, StreamSimulation, simulate_stream
from layerline.schedules.stream_validate import validate_stream
from layerline.schedules.timing import Async, Recorded
from layerline.stream_member import Member
from layerline.stream_run import StreamRun
from layerline.stream_sitting import Alone, in_order
from layerline.transport.boundary import Plain
from layerline.transport.codecs import Fp32

SIMULATED = 24
"""Steps at least that are simulated: as many as are drawn, of both ends."""


@dataclass(frozen=True)
class BaseStreamJob(ABC):
    """A run of minibatches over nodes, with everything it needs."""

    run: StreamRun
    model: StreamModel
    data: AnySet
    stream: AnyStream

    @cached_property
    @abstractmethod
    def plan(self) -> Plan:
        """The plan of as many steps as show everything that is repeated."""

    @property
    @abstractmethod
    def title(self) -> str:
        """Of its trace and picture."""

    @abstractmethod
    def member(self, folder: RunFolder, heard: Listener, stop: Stop, member: Membership, board: Board) -> Member:
        """This process's part, one of several."""

    @abstractmethod
    def _simulated(self, noted: Sequence[Noted], processes: int, steps: int, link: Link) -> StreamSimulation:
        """The plan in time on so many processes, with what its rows took on average."""

    def of(self, member: Membership | None) -> Self:
        """The job with no more than this process needs, if it is one of several. The model is changed in place."""
        return self

    def holding(self, blocks: Collection[int]) -> Self:
        """The job with the numbers of these blocks only, and examples only where the first is among them."""
        self.model.hold_only(blocks)
        if 0 in blocks or isinstance(self.data, TextSet):
            return self
        return replace(self, data=self.data.without_inputs())

    def carry_out(self, folder: RunFolder | None, listener: Listener, stop: Stop, tensorboard: bool) -> Outcome:
        """Train from the folder's newest cut to the end; leave everything in the folder.

        `Elsewhere` in a process whose part is done, where another has the result.
        """
        member = Membership.of_environment()
        hears = folder.listening(listener, tensorboard=tensorboard) if folder else nullcontext(listener)
        with compute_threads(self.run), kept_memory():
            if not (member and folder):
                with folder.alone() if folder else nullcontext(), hears as heard:
                    return self._alone(self, folder, heard, stop).carry_out()
            board = Board(member, join_seconds())
            with board.telling(), ExitStack() as stack:
                if member.rank == 0:
                    stack.enter_context(folder.alone())
                heard = stack.enter_context(hears) if member.rank == 0 else _mute
                outcome = self.member(folder, heard, stop, member, board).carry_out()
            board.leave()
            return outcome

    @property
    def _alone(self) -> type[Alone]:
        return FreeAlone if isinstance(self.run.timing, Async) else Alone

    def cuts(self, folder: RunFolder) -> Cuts:
        """The run's cuts in its folder."""
        identity = {"run": self.run.digest(), "data": self.data.digest(), "plan": self.plan.digest()}
        return Cuts(folder.checkpoints, identity)

    def rows(self, folder: RunFolder) -> list[Row]:
        """The numbers of all epochs, as a finished run left them."""
        cuts, device = self.cuts(folder), self.model.device
        step = newest([cuts.steps(node) for node in range(self.stream.nodes)])
        return in_order([cuts.load(node, step, device)[1] for node in range(self.stream.nodes)])

    def predicted(self, noted: Sequence[Noted], processes: int, steps: int, link: Link) -> dict[str, Any]:
        """For `result.json`: what the plan says of the time, and of a step beside what one took."""
        found = self._simulated(noted, processes, steps, link)
        return {
            "predicted_seconds": round(found.makespan, 3),
            "predicted_from": "rows",
            "step_seconds": round(max(each.seconds for each in noted) / steps, 6),
            "predicted_step_seconds": round(found.step_seconds, 6),
        }

    def draw(self, folder: RunFolder, noted: Sequence[Noted], processes: int, steps: int, link: Link) -> bool:
        """`trace.json` and `gantt.svg`, where rows are recorded; False where no matplotlib can draw."""
        if not any(each.recording.rows for each in noted):
            return True
        recorded = recorded_steps(steps, len(self.stream.order()))
        plan, facts = timeline(self.stream, recorded, [each.recording for each in noted])
        write_trace(folder.path / "trace.json", plan, facts, self.title)
        if not can_draw():
            return False
        found, seconds = self._simulated(noted, processes, steps, link), max(each.seconds for each in noted)
        draw_stream(plan, facts, found, seconds / steps, shares_of(noted), folder.path / "gantt.svg", self.title)
        return True


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

    def member(self, folder: RunFolder, heard: Listener, stop: Stop, member: Membership, board: Board) -> Member:
        kind = FreeMember if isinstance(self.run.timing, Async) else Member
        return kind(self, folder, heard, stop, member, board)

    @property
    def title(self) -> str:
        how = "blocks that run freely" if isinstance(self.run.timing, Async) else f"stream, reach {self.run.reach}"
        return f"{self.run.preset} · {how}"

    def draw(self, folder: RunFolder, noted: Sequence[Noted], processes: int, steps: int, link: Link) -> bool:
        if not isinstance(self.run.timing, Async):
            return super().draw(folder, noted, processes, steps, link)
        if not any(each.recording.rows for each in noted):
            return True
        plan, facts = free_timeline([each.recording for each in noted], len(self.model.blocks), steps)
        write_trace(folder.path / "trace.json", plan, facts, self.title)
        if not can_draw():
            return False
        draw_free(plan, facts, shares_of(noted), folder.path / "gantt.svg", self.title)
        return True

    def _simulated(self, noted: Sequence[Noted], processes: int, steps: int, link: Link) -> StreamSimulation:
        """The plan in time on so many processes, with what its rows took on average."""
        busy: Mapping[int, float] = {row: seconds for each in noted for row, seconds in each.busy.items()}
        rows = np.array([busy.get(row, 0.0) / steps for row in range(len(self.stream.order()))])
        bandwidth = link.bytes / link.seconds if link.seconds else ONE_HOST.bandwidth
        world = world_of(self.run, bandwidth, ONE_HOST.latency)
        costs, places = costs_of(self.model, Machine()), placement(self.plan, processes)
        return simulate_stream(self.stream, costs, world, steps, places=places, measured=rows, at_least=SIMULATED)


def stream_job(run: StreamRun, model: StreamModel, data: AnySet) -> StreamJob:
    """The job of a stream over nodes. UsageError for more nodes than blocks, and for what several nodes cannot do."""
    refuse_apart(run, model)
    return StreamJob(run, model, data, stream_of(model))


def refuse_apart(run: StreamRun, model: StreamModel) -> None:
    """UsageError for what several nodes cannot do with a stream."""
    match run.timing:
        case Recorded():
            raise UsageError("a recorded order is done again by one node", hint="leave out --nodes")
        case Async():
            run.timing.factors(len(model.blocks))
            if not isinstance(run.codec, Fp32):
                raise UsageError(
                    f"--codec {run.codec.kind} is for nodes that wait for each other",
                    hint="blocks that run freely learn from what their buffers hold: --boundary says how it is coded",
                )
            crossings(model, model.device)  # whether outputs fit the boundary
        case _ if not isinstance(run.boundary, Plain):
            raise UsageError(
                f"--boundary {run.boundary.kind} is for one node", hint="between nodes --codec says how outputs travel"
            )


def shares_of(noted: Sequence[Noted]) -> list[float]:
    """The fraction of the whole time that each node computed."""
    seconds = max(each.seconds for each in noted) or 1.0
    return [sum(each.busy.values()) / seconds for each in noted]


def _mute(event: Event) -> None:
    """Rank 0 speaks for all."""
