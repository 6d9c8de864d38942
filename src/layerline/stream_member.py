"""One process's part of a stream over nodes: some nodes are here, others elsewhere.

Rank 0 puts the result together. What nodes let each other know stands on the board.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from layerline.errors import CheckpointError, Elsewhere
from layerline.events import EpochDone, Event, Listener, Row
from layerline.planned import Outcome
from layerline.reporting.run_folder import RunFolder
from layerline.runtime.members import LONGEST_SECONDS, Board, join_seconds, placement, silence_seconds
from layerline.runtime.standing import looking
from layerline.runtime.stop import Stop
from layerline.runtime.stream.doing import Doing, posting, standing_of
from layerline.runtime.stream.node import Noted, fill
from layerline.runtime.stream.snapshots import newest
from layerline.schedules.lower import messages
from layerline.stream_job import BaseStreamJob
from layerline.stream_sitting import Alone
from layerline.transport.base import Transport
from layerline.transport.message import Key
from layerline.transport.process_group import ProcessGroup
from layerline.transport.rendezvous import Facts, check_peers


class Member(Alone):
    """Some nodes in this process, others elsewhere."""

    def __init__(self, job: BaseStreamJob, folder: RunFolder, heard: Listener, stop: Stop, board: Board) -> None:
        self.member, self.board, self.world = board.member, board, board.member.world
        self.places = placement(job.plan, self.world)
        self._waiting: dict[int, list[Row]] = {}
        super().__init__(job, folder, heard, stop)

    def _mine(self) -> Sequence[int]:
        return [node for node, rank in enumerate(self.places) if rank == self.member.rank]

    def _common(self) -> int:
        job, member, board = self.job, self.member, self.board
        facts = Facts.here(run=job.run.digest(), plan=job.plan.digest(), data=job.data.digest())
        board.meet()
        check_peers(
            member.store(join_seconds()),
            member.rank,
            member.world,
            facts,
            generation=board.generation,
            timeout=join_seconds(),
        )
        for node in self.nodes:
            board.post(
                f"snapshots {node}",
                [self.snapshots.steps(node), self.snapshots.whole(node)] if self.snapshots else [[], 0],
            )
        steps, whole = zip(*self._from_all("snapshots"), strict=True)
        return newest(steps, max(whole))

    def _from_all(self, what: str) -> list[Any]:
        """What every node posted."""
        nodes = range(self.job.stream.nodes)
        who = [f"rank {self.places[node]}" for node in nodes]
        return self.board.wait([f"{what} {node}" for node in nodes], who)

    def _saved(self, node: int) -> int:
        if node in self.nodes:
            return self.latest[node]
        step: int = self.board.look(f"saved {node}") or self.start
        return step

    def _save(self, number: int, step: int) -> None:
        super()._save(number, step)
        self.board.post(f"saved {number}", step)

    def _transport(self) -> Transport:
        return ProcessGroup(
            self.member.store(join_seconds()),
            self.member.rank,
            self.places,
            self._links(),
            plan=self.job.plan.digest(),
            generation=self.board.generation,
            codec=self.job.run.codec,
            timeout=LONGEST_SECONDS,
            join=join_seconds(),
            silence=silence_seconds(),
            host=self.member.host,
            delay=self.delay,
        )

    def _links(self) -> set[tuple[int, int]]:
        """Nodes that send to each other: neighbours, who follows whom, and at the end all to the first of rank 0."""
        nodes, home, sent = range(self.job.stream.nodes), self.places.index(0), messages(self.job.plan)
        links = {(node, other) for node in nodes for other in (node - 1, node + 1) if other in nodes}
        links |= set(zip(sent.sender.tolist(), sent.receiver.tolist(), strict=True))
        return links | {(node, home) for node in nodes if self.places[node] != 0}

    def _to_bring(self, number: int) -> Sequence[int]:
        """The blocks that a node brings home."""
        return self.job.stream.owned[number] if self.places[number] else ()

    def carry_out(self) -> Outcome:
        self._restore()
        with self._transport() as transport, self.board.telling(leave=False):
            for number, node in self.nodes.items():
                self.board.post_pieces(f"before {number}", [node.noted.to_dict()])
            self._begin()
            link = self._train(transport)
            noted = self._bring_home(transport)
        return self._finish(noted, link)

    def _known(self) -> list[Noted]:
        if self.member.rank:
            return super()._known()
        return self._noted("before")

    def _noted(self, when: str) -> list[Noted]:
        """What every node had noted."""
        nodes = range(self.job.stream.nodes)
        return [Noted.from_dict(self.board.wait_pieces(f"{when} {node}", f"node {node}")[0]) for node in nodes]

    def _hear(self, event: Event) -> None:
        """Rank 0 hears of an epoch when all nodes have done it."""
        if not isinstance(event, EpochDone):
            self.heard(event)
            return
        self.board.post(f"epoch {event.epoch} {self.member.rank}", [vars(row) for row in event.rows])
        if self.member.rank == 0:
            self._waiting[event.epoch] = event.rows
            self._complete()

    @contextmanager
    def _shown(self, doing: Doing) -> Iterator[None]:
        """Rank 0 sees what the others let it know."""
        board = self.board.for_another_thread()
        if self.member.rank == 0:
            self._set_out(looking(doing, board, self.world, standing_of))
            yield
            return
        with posting(doing, partial(board.post, f"standing {self.member.rank}")):
            yield

    def _complete(self) -> None:
        """Tell of epochs that all have done."""
        for epoch in sorted(self._waiting):
            others = [self.board.look(f"epoch {epoch} {rank}") for rank in range(1, self.world)]
            if any(each is None for each in others):
                break
            rows = self._waiting.pop(epoch) + [Row(**row) for each in others for row in each]
            self.heard(EpochDone(epoch, rows))

    def _bring_home(self, transport: Transport) -> list[Noted]:
        """Blocks of other processes go to the first node of rank 0, and with them all that was noted."""
        job, home = self.job, self.places.index(0)
        for number, node in self.nodes.items():
            for block in self._to_bring(number):
                transport.at(number).send(_final(block, self.feed.steps), node.finished(block), home)
            self.board.post_pieces(f"after {number}", [node.noted.to_dict()])
        if self.member.rank:
            self.board.wait(["home"], ["rank 0"], timeout=LONGEST_SECONDS)
            self._tidy()
            raise Elsewhere("this process has done its part; rank 0 has the result")
        for number in range(job.stream.nodes):
            for block in self._to_bring(number):
                tensors = transport.at(home).receive(_final(block, self.feed.steps), number)
                try:
                    fill(job.model, block, tensors)
                except (KeyError, RuntimeError) as error:
                    raise CheckpointError(f"node {number} sent another block {block + 1}: {error}") from None
        noted = self._noted("after")
        self._complete()
        self.board.post("home", True)
        self._tidy()
        return noted


def _final(block: int, steps: int) -> Key:
    """A finished block on its way home."""
    return Key(block, "final", block, steps)
