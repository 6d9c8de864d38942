"""A stream over nodes that run freely, from the newest snapshot to the result: what `stream_sitting` does otherwise.

Nodes are never at the same step, so snapshots are numbered, and what is done is counted in minibatches of the data that
blocks came past. At the end the nodes' records are put together into the order of events that the run was, `order.npy`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from layerline.events import EpochDone, Event, Minibatch, Row
from layerline.runtime.stream.free_node import FreeNode
from layerline.runtime.stream.free_worker import FreeWorker
from layerline.runtime.stream.node import Noted, in_order
from layerline.runtime.stream.worker import GO_ON, SAVE, Link
from layerline.schedules.merge import Merged
from layerline.schedules.timing import Async
from layerline.stream_member import Member
from layerline.stream_sitting import Alone
from layerline.transport.base import Transport
from layerline.transport.boundary import facts_of
from layerline.transport.message import Key

_SECONDS_BETWEEN = 0.5
"""Two looks at what the others have done."""


class FreeAlone(Alone):
    """All nodes in this process, in turns."""

    @cached_property
    def timing(self) -> Async:
        """How blocks run freely."""
        timing = self.job.run.timing
        assert isinstance(timing, Async)
        return timing

    @property
    def delay(self) -> float:  # type: ignore[override]
        """Of every link, seconds."""
        return self.timing.link_delay or 0.0

    @property
    def _free(self) -> dict[int, FreeNode]:
        return {number: node for number, node in self.nodes.items() if isinstance(node, FreeNode)}

    def _node(self, blocks: Sequence[int]) -> FreeNode:
        return FreeNode(blocks, self.job.model, self.feed, self.timing.buffer, self.timing.max_reuse)

    def _worker(self, transport: Transport) -> FreeWorker:
        return FreeWorker(
            self._free,
            self.job.stream.nodes,
            transport,
            snapshot=self.start,
            buffer=self.timing.buffer,
            factors=self.timing.factors(len(self.job.model.blocks)),
            delay=self.delay,
            decide=self._decide,
            save=self._save,
            stop=self.stop,
        )

    def _decide(self) -> int:
        """Save only when all have come to the snapshot before: there are never more than two of a node."""
        what = super()._decide()
        nodes = range(self.job.stream.nodes)
        if what == SAVE and any(self._saved(node) < self.latest[0] for node in nodes):
            return GO_ON
        return what

    def _done(self) -> tuple[int, int]:
        """Minibatches of the data that all blocks came past, as far as they are known."""
        return self._reached, self.feed.steps * len(self.job.model.blocks)

    def _steps_of(self, blocks: Sequence[int]) -> int:
        return super()._steps_of(blocks) * len(blocks)

    @property
    def _reached(self) -> int:
        """By the blocks here."""
        return sum(node.reached for node in self._free.values())

    def _restore(self) -> None:
        super()._restore()
        self._kept = {number: node.reached for number, node in self._free.items()}

    def _save(self, number: int, step: int) -> None:
        super()._save(number, step)
        self._kept[number] = self._free[number].reached

    def _progress(self) -> str:
        total = self.feed.steps * sum(len(node.blocks) for node in self._free.values())
        return f"after {sum(self._kept.values()):,} of {total:,} minibatches for the blocks here"

    def _records(self) -> list[dict[str, Tensor]]:
        """Of all nodes."""
        return [node.history() for node in self._free.values()]

    def _more(self, noted: Sequence[Noted], link: Link) -> dict[str, Any]:
        records, blocks = self._records(), len(self.job.model.blocks)
        events, times = (np.concatenate([each[name].numpy() for each in records]) for name in ("events", "times"))
        recorded = Merged.of(events, times, blocks, self.feed.steps)
        if self.folder:
            recorded.order.write(self.folder.order)
        tallies = {name: tally for each in records for name, tally in each.items() if name.startswith("tally.")}
        share = [round(len(each["events"]) / len(events), 4) for each in records]
        return {
            "order": self.folder.order.name if self.folder else None,
            "events": len(events),
            "share_of_events": share,
            "blocks": recorded.facts(),
            "boundaries": [{"block": b + 1} | facts_of(tallies[f"tally.{b}"]) for b in range(blocks - 1)],
        }


class FreeMember(FreeAlone, Member):
    """Some nodes in this process, others elsewhere."""

    _others: list[dict[str, Tensor]]

    def _begin(self) -> None:
        for number, node in self._free.items():
            self.board.post(f"reached {number}", node.reached)
        self._counted = dict.fromkeys(range(1, self.world), 0)
        self._epochs = {str(block + 1): 0 for block in range(len(self.job.model.blocks))}
        if self.member.rank == 0:
            for row in in_order(self._known()):
                self._epochs[row.block] = row.epoch
        self._steps, self._looked = 0, time.monotonic()
        self._rows = dict.fromkeys(self._epochs, 0)  # of this sitting: a block may come past several epochs at once
        super()._begin()

    def _done(self) -> tuple[int, int]:
        reached, total = super()._done()
        return sum(self._from_all("reached")) if self.member.rank == 0 else reached, total

    def _hear(self, event: Event) -> None:
        """Rank 0 hears of what others do, too: of their epochs, and how far they have come."""
        self._steps += isinstance(event, Minibatch)
        if self.member.rank == 0:
            self.heard(event)
            return
        for row in event.rows if isinstance(event, EpochDone) else ():
            self._rows[row.block] += 1
            self.board.post(f"row {self._rows[row.block]} {row.block}", vars(row))
        if self._due():
            self.board.post(f"steps {self.member.rank}", self._steps)

    def _decide(self) -> int:
        if self._due():
            self._complete()
        return super()._decide()

    def _due(self) -> bool:
        now = time.monotonic()
        due = now - self._looked >= _SECONDS_BETWEEN
        self._looked = now if due else self._looked
        return due

    def _complete(self) -> None:
        for rank, before in self._counted.items():
            self._counted[rank] = self.board.look(f"steps {rank}") or 0
            for _ in range(self._counted[rank] - before):
                self.heard(Minibatch(min(max(self._epochs.values()) + 1, self.job.run.epochs), "all blocks"))
        here = {str(block + 1) for node in self.nodes.values() for block in node.blocks}
        for block in self._epochs.keys() - here:
            while row := self.board.look(f"row {self._rows[block] + 1} {block}"):
                self._rows[block] += 1
                self._epochs[block] = row["epoch"]
                self.heard(EpochDone(row["epoch"], [Row(**row)]))

    def _bring_home(self, transport: Transport) -> list[Noted]:
        home = self.places.index(0)
        for number, node in self._free.items():
            if self.member.rank:
                transport.at(number).send(_record(number), node.history(), home)
        elsewhere = [number for number, rank in enumerate(self.places) if rank] if self.member.rank == 0 else []
        self._others = [transport.at(home).receive(_record(number), number) for number in elsewhere]
        return super()._bring_home(transport)

    def _records(self) -> list[dict[str, Tensor]]:
        return super()._records() + self._others


def _record(node: int) -> Key:
    """What a node recorded, on its way home."""
    return Key(node, "record", 0, 0)
