"""A stream over nodes: the pattern of one step, a minibatch, and its repetition.

Every node owns blocks in a row. A minibatch comes in microbatches, one after the other. With three blocks on three
nodes, `1F0` is block 1's forward of microbatch 0, `1B0` a loss's gradient of it through block 1, `1U` the update:

    reach all, four microbatches (1F1B)                         reach 1, one microbatch (DGL)
    1F0 1F1 1F2         1B0 1F3     1B1     1B2     1B3 1U      1F0 1B0 1U  1F0 1B0 1U
        2F0 2F1     2B0 2F2 2B1 2F3 2B2     2B3 2U                  2F0 2B0 2U  2F0 2B0 2U
            3F0 3B0 3F1 3B1 3F2 3B2 3F3 3B3 3U                          3F0 3B0 3U  3F0 3B0 3U

The plan is an ordinary table of rows, whose columns mean: chapter, the step; stage, the block; shard, the microbatch
m + M · how many blocks ahead the loss is. Its edges:

    forward k     the outputs of forward k − 1; the weights of update k, a step ago
    backward k    by the loss above it: the gradients of backward k + 1 by the same loss; by its own: its own outputs
    update k      the gradients of every backward k: it learns from some, and may not change under the others
    own loss k    where its head is made of block j's weights (`follows`): those of update j, a step ago
    forward k, last of its node    where the next node sends no gradients back: its first forward of `window` ago

**Order.** All nodes follow one list, each its part of it. It goes slot by slot; in slot s node n brings microbatch s
forward, the losses of its own blocks go down through its blocks, then those of losses h nodes ahead, of microbatch
s − h. So as many forwards come before the first gradient as there are nodes up to the loss, then one backward and one
forward in turn: 1F1B, in which no more than h + 1 microbatches are under way in a block, however many there are.

**A row by its loss.** A gradient of a near loss need not wait for one of a far loss at the same block. Were they one
row, as a list of gradients in one message is, every block of a 2-wise stream would wait for the last one.

Why nothing can wait for ever: every edge comes from an earlier row of the list. Forwards go up within a slot; a
gradient comes from a slot before, or from further up within the same node; everything else from a step before. So
the first row not done, in the list's order, finds all its inputs made, and `lower` tells why they come.

**Bounded queues.** The window: a node brings a microbatch forward when the next one has brought forward that of so
many microbatches ago, whichever steps they are of. So no more than `window` microbatches wait between two nodes,
however many a minibatch has. Where gradients come back they do the same: there it is as many as nodes up to the loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from layerline.blocks.balance import partition
from layerline.errors import UsageError
from layerline.schedules.pattern import Input, Step, repeat
from layerline.schedules.plan import Action, Carries, Column, Plan
from layerline.schedules.reach import Reach
from layerline.schedules.work import Work, check_speeds

WINDOW = 2
"""Microbatches that a node may be ahead of the next one: one is computed, one is on its way."""
SCHEDULE = "stream"
"""What a plan of a stream is called."""


@dataclass(frozen=True)
class Mark:
    """A row of one step: what is done with which microbatch of which block; `loss`: whose gradient goes back."""

    action: Action
    block: int
    microbatch: int = 0
    loss: int = -1


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Who has which blocks, and how a minibatch is cut."""

    reach: Reach
    owned: tuple[range, ...]
    """The blocks of each node, in order."""
    microbatches: int = 1
    window: int = WINDOW
    """Microbatches that a node may be ahead of the next one, where no gradient comes back to it."""
    follows: tuple[tuple[int, int], ...] = ()
    """Blocks whose head is made of a later block's weights, each with that block."""

    @property
    def ahead(self) -> int:
        """Steps that a node may be ahead of the next one."""
        return max(1, -(-self.window // self.microbatches))

    @property
    def nodes(self) -> int:
        """Logical nodes."""
        return len(self.owned)

    def node(self, block: int) -> int:
        """Whose block it is."""
        return next(node for node, blocks in enumerate(self.owned) if block in blocks)

    def order(self) -> list[Mark]:
        """One step, in the order that all nodes follow."""
        return [*self._slots(), *(Mark(Action.UPDATE, block) for blocks in self.owned for block in blocks)]

    def pattern(self) -> list[Step]:
        """The rows of one step, in that order, with their inputs."""
        marks = self.order()
        place = {mark: at for at, mark in enumerate(marks)}
        return [
            Step(
                action=mark.action,
                stage=mark.block,
                node=self.node(mark.block),
                inputs=list(self._inputs(mark, place)),
                shard=mark.microbatch + self.microbatches * (mark.loss - mark.block if mark.loss >= 0 else 0),
            )
            for mark in marks
        ]

    def plan(self, steps: int) -> Plan:
        """The plan of so many steps."""
        work = Work(blocks=self.reach.blocks, chapters=steps, nodes=self.nodes)
        return repeat(self.pattern(), schedule=SCHEDULE, work=work, shards=self.microbatches)

    @property
    def takers(self) -> dict[int, int]:
        """Blocks before whose own loss a later block's weights come from another node; for all heads of the node."""
        first: dict[tuple[int, int], int] = {}
        for block, followed in sorted(self.follows):
            if self.node(block) != self.node(followed):
                first.setdefault((self.node(block), followed), block)
        return {block: followed for (_, followed), block in first.items()}

    def turns(self, node: int) -> bool:
        """Whether a node waits for leave of the next one, which sends it no gradients."""
        return node + 1 < self.nodes and not self.reach.crossing(self.owned[node].stop)

    def _slots(self) -> Iterator[Mark]:
        place = [self.node(block) for block in range(self.reach.blocks)]
        for slot in range(self.microbatches + self.nodes - 1):
            for node, blocks in enumerate(self.owned):
                for block in blocks if slot < self.microbatches else ():
                    yield Mark(Action.FORWARD, block, slot)
                    if self.reach.has_loss(block):
                        yield from self._down(block, slot, blocks, block)
                for loss in self.reach.crossing(blocks.stop) if blocks.stop < self.reach.blocks else ():
                    microbatch = slot - (place[loss] - node)
                    if 0 <= microbatch < self.microbatches:
                        yield from self._down(loss, microbatch, blocks, blocks.stop - 1)

    def _down(self, loss: int, microbatch: int, blocks: range, top: int) -> Iterator[Mark]:
        """A loss's gradient through the blocks of a node, from `top` as far as it goes."""
        for block in range(top, blocks.start - 1, -1):
            if loss not in self.reach.at(block):
                return
            yield Mark(Action.BACKWARD, block, microbatch, loss)

    def _inputs(self, mark: Mark, place: dict[Mark, int]) -> Iterator[Input]:
        block, microbatch = mark.block, mark.microbatch
        match mark.action:
            case Action.FORWARD:
                if block:
                    yield Input(place[Mark(Action.FORWARD, block - 1, microbatch)], Carries.OUTPUTS)
                yield Input(place[Mark(Action.UPDATE, block)], Carries.WEIGHTS, 1)
                node = self.node(block)
                if block + 1 == self.owned[node].stop and self.turns(node):
                    later, part = divmod(microbatch - self.window, self.microbatches)
                    yield Input(place[Mark(Action.FORWARD, block + 1, part)], Carries.TURN, -later)
            case Action.BACKWARD:
                yield Input(place[Mark(Action.FORWARD, block, microbatch)], Carries.OUTPUTS)
                if mark.loss > block:
                    yield Input(place[Mark(Action.BACKWARD, block + 1, microbatch, mark.loss)], Carries.GRADIENTS)
                elif not microbatch and block in self.takers:
                    yield Input(place[Mark(Action.UPDATE, self.takers[block])], Carries.WEIGHTS, 1)
            case _:
                for source, at in place.items():
                    if source.action == Action.BACKWARD and source.block == block:
                        yield Input(at, Carries.GRADIENTS)


def microbatch_of(plan: Plan) -> Column:
    """The microbatch of every row of a stream's plan."""
    return plan.shard % plan.shards


def loss_of(plan: Plan) -> Column:
    """The block whose loss a `backward` row is about; its own block in any other row."""
    loss: Column = (plan.stage + plan.shard // plan.shards).astype(np.int32)
    return loss


def deal_blocks(costs: Sequence[float], nodes: int, speeds: Sequence[float] = ()) -> tuple[range, ...]:
    """The blocks of each node, contiguous, the slowest node as fast as possible. UsageError for too many nodes."""
    blocks = len(costs)
    check_speeds(tuple(speeds), nodes)
    if nodes > blocks:
        count = f"{blocks} block{'s' * (blocks > 1)}"
        raise UsageError(
            f"{nodes} nodes for a stream through {count}: each needs one at least",
            hint=f"choose --nodes {blocks}, or a network of more blocks (--cut layers makes most)",
        )
    begins = (0, *partition(costs, nodes, speeds or None), blocks)
    return tuple(range(begin, end) for begin, end in pairwise(begins))
