"""A run of minibatches over nodes, with everything it needs to be carried out.

    alone      one process carries out all nodes
    member     this process carries out some nodes; rank 0 puts the result together
    launcher   this process starts the members, and reads what rank 0 left (see `team`)

What the first two do is told in `stream_sitting`; whose plan it is, in `streamed` and `baselines.job`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, Self

import numpy as np

from layerline.data.text_set import AnySet, TextSet
from layerline.events import Listener, Row, silent
from layerline.planned import Outcome
from layerline.reporting.gantt_run import can_draw
from layerline.reporting.gantt_stream import draw_stream
from layerline.reporting.run_folder import RunFolder
from layerline.reporting.trace import write_trace
from layerline.runtime.members import Board, Membership, join_seconds
from layerline.runtime.memory import kept_memory
from layerline.runtime.stop import Stop
from layerline.runtime.stream.model import StreamModel
from layerline.runtime.stream.node import Noted, in_order
from layerline.runtime.stream.recording import recorded_steps, timeline
from layerline.runtime.stream.snapshots import Snapshots, newest
from layerline.runtime.stream.worker import Link
from layerline.runtime.threads import compute_threads
from layerline.schedules.plan import Plan
from layerline.schedules.stream_simulate import AnyStream, Floats, StreamSimulation
from layerline.stream_run import StreamRun

SIMULATED = 24
"""Steps at least that are simulated: as many as are drawn, of both ends."""


class Sitting(Protocol):
    """A process's part of a run."""

    def carry_out(self) -> Outcome:
        """From the newest snapshot to the result."""


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
    def sitting(self, folder: RunFolder | None, heard: Listener, stop: Stop, board: Board | None) -> Sitting:
        """This process's part: one of several with a board, else all."""

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
        """Train from the folder's newest snapshot to the end; leave everything in the folder.

        `Elsewhere` in a process whose part is done, where another has the result.
        """
        member = Membership.of_environment()
        hears = folder.listening(listener, tensorboard=tensorboard) if folder else nullcontext(listener)
        with compute_threads(self.run), kept_memory():
            if not (member and folder):
                with folder.alone() if folder else nullcontext(), hears as heard:
                    return self.sitting(folder, heard, stop, None).carry_out()
            board = Board(member, join_seconds())
            with board.telling(), ExitStack() as stack:
                if member.rank == 0:
                    stack.enter_context(folder.alone())
                heard = stack.enter_context(hears) if member.rank == 0 else silent
                outcome = self.sitting(folder, heard, stop, board).carry_out()
            board.leave()
            return outcome

    def snapshots(self, folder: RunFolder) -> Snapshots:
        """The run's snapshots in its folder."""
        identity = {"run": self.run.digest(), "data": self.data.digest(), "plan": self.plan.digest()}
        return Snapshots(folder.checkpoints, identity)

    def rows(self, folder: RunFolder) -> list[Row]:
        """The numbers of all epochs, as a finished run left them."""
        snapshots, device = self.snapshots(folder), self.model.device
        step = newest([snapshots.steps(node) for node in range(self.stream.nodes)])
        return in_order([snapshots.load(node, step, device)[1] for node in range(self.stream.nodes)])

    def predicted(self, noted: Sequence[Noted], processes: int, steps: int, link: Link) -> dict[str, Any]:
        """For `result.json`: what the plan says of the time, and of a step beside what one took."""
        found = self._simulated(noted, processes, steps, link)
        return {
            "predicted_seconds": round(found.makespan, 3),
            "predicted_from": "rows",
            "step_seconds": round(max(each.seconds for each in noted) / steps, 6),
            "predicted_step_seconds": round(found.step_seconds, 6),
        }

    def row_seconds(self, noted: Sequence[Noted], steps: int) -> Floats:
        """What each row of a step took, on average."""
        busy = {row: seconds for each in noted for row, seconds in each.busy.items()}
        return np.array([busy.get(row, 0.0) / steps for row in range(len(self.stream.order()))])

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


def shares_of(noted: Sequence[Noted]) -> list[float]:
    """The fraction of the whole time that each node computed."""
    seconds = max(each.seconds for each in noted) or 1.0
    return [sum(each.busy.values()) / seconds for each in noted]
