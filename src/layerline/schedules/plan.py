"""A plan: the graph of what a training computes, from which versions of what, on which logical node.

Problem: the same description must be printed, simulated, drawn, executed by one process or many, and resumed; and a
million slots of it must be handled in seconds. Solution: columns, not objects. A plan is a table of actions in an order
that any single process could carry out; every node carries out its own rows in that order. An action's inputs are
edges to earlier rows:

    row  action     stage  chapter  node   inputs (source row, what)
    0    train      0      0        0                                          block 1 of chapter 1, from the seed
    1    forward    0      0        0      (0, weights)                        the set through block 1
    2    train      1      0        0      (1, outputs)
    3    train      0      1        1      (0, state)                          block 1 goes on, on another node
    …

Rows are in rounds, from one exchange to the next: chapters, or minibatches where nodes exchange per batch.
A **slot** is a `train` row: one block for one round. Stages 0 … L−1 are the blocks; stage L is the softmax readout's
head, where there is one. An edge between nodes is a message. A missing edge means the beginning: a `train` row without
`state` starts from the run's seed, a first stage without `labels` uses the negatives drawn at the start.

Several `state` edges of one row are averaged, in their order; several `labels` edges are the parts of one set of
labels.

A stream is such a table, too, of other actions; what its columns mean then is told in `stream`.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.int32]


class Action(IntEnum):
    """What a row computes."""

    TRAIN = 0
    """A block (or the head) for a round: a slot. The head's row includes the neutral pass it learns from."""
    FORWARD = 1
    """A round's images (of a chapter, the whole training set) through a block, for the next block to learn from."""
    NEGATIVES = 2
    """Wrong labels from the network's scores, for all images or a part of them. Its `stage` is 0, whose input they
    change."""
    BACKWARD = 3
    """In a stream: a loss's gradient through a block."""
    UPDATE = 4
    """In a stream: a block follows the gradients of a minibatch."""
    INPUT_GRADIENT = 5
    """In pipelined backprop: the part of a `backward` row that the stage below waits for."""
    WEIGHT_GRADIENT = 6
    """The other part, which nobody waits for but the update."""


STREAM = (Action.BACKWARD, Action.UPDATE, Action.INPUT_GRADIENT, Action.WEIGHT_GRADIENT)
"""Rows that only a stream has."""


class Carries(IntEnum):
    """What an edge carries from its source to the row that needs it."""

    STATE = 0
    """A block to be trained on: its parameters, and the optimizer's moments where they travel."""
    WEIGHTS = 1
    """A block to be used: its parameters."""
    OUTPUTS = 2
    """The stored outputs of a `forward` row."""
    LABELS = 3
    """The wrong labels of a `negatives` row."""
    GRADIENTS = 4
    """In a stream: what a `backward` row leaves, for the block below or for the update."""
    TURN = 5
    """In a stream: nothing but leave to go on."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Rows as columns; edges of row r are `source[first[r]:first[r + 1]]`, with `carries` beside them."""

    schedule: str
    """The schedule's name, as on the command line."""
    blocks: int
    head: bool
    chapters: int
    minibatches: int
    """Of a chapter, each of them a round; 0 where a round is a chapter."""
    nodes: int
    shards: int
    """Parts of the training set that are trained on separately; 1: every node uses all of it."""
    shares: tuple[float, ...]
    """How making a shard's labels is divided into parts, in fractions that add up to 1; (1.0,): it is not."""

    action: NDArray[np.uint8]
    stage: Column
    round: Column
    node: Column
    shard: Column
    """Which part of the training set a row works on. A `negatives` row of shard d and part p has d · parts + p."""

    first: NDArray[np.int64]
    source: Column
    carries: NDArray[np.uint8]

    gone: frozenset[int] = frozenset()
    """Rows that nobody will carry out: their node was lost, and the others go on without it."""
    origin: str = ""
    """The digest of the plan before it was lost."""

    def __len__(self) -> int:
        return len(self.action)

    @property
    def stages(self) -> int:
        """Blocks, and the head where there is one."""
        return self.blocks + self.head

    @property
    def by_batch(self) -> bool:
        """Whether nodes exchange after every minibatch."""
        return self.minibatches > 0

    @property
    def rounds_per_chapter(self) -> int:
        """1 where a round is a chapter."""
        return max(1, self.minibatches)

    @property
    def rounds(self) -> int:
        """Of the whole plan."""
        return self.chapters * self.rounds_per_chapter

    @cached_property
    def chapter(self) -> Column:
        """Of every row."""
        return self.round // np.int32(self.minibatches) if self.by_batch else self.round

    @property
    def slots(self) -> int:
        """Number of `train` rows."""
        return int(np.count_nonzero(self.action == Action.TRAIN))

    @property
    def streams(self) -> bool:
        """Whether it is the plan of a stream: chapters are steps, shards microbatches."""
        return bool((self.action == Action.UPDATE).any())

    @property
    def parts(self) -> int:
        """Rows that share making one set of labels."""
        return len(self.shares)

    def part(self, row: int, count: int) -> range:
        """Which of the `count` images of its shard a `negatives` row makes labels for; any other row: all of them."""
        if self.action[row] != Action.NEGATIVES:
            return range(count)
        part = int(self.shard[row]) % self.parts
        begin, end = (round(count * math.fsum(self.shares[:upto])) for upto in (part, part + 1))
        return range(begin, count if part + 1 == self.parts else end)

    @property
    def target(self) -> Column:
        """The row each edge leads to."""
        return np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self.first))

    def inputs(self, row: int) -> list[tuple[int, Carries]]:
        """A row's edges: (source row, what it carries)."""
        edges = slice(self.first[row], self.first[row + 1])
        return [(int(s), Carries(c)) for s, c in zip(self.source[edges], self.carries[edges], strict=True)]

    def digest(self) -> str:
        """SHA-256 over everything in the plan: nodes that carry it out together must have the same.

        A plan that goes on without some rows keeps that of the whole one.
        """
        if self.origin:
            return self.origin
        facts = (self.schedule, self.blocks, self.head, self.chapters, self.nodes, self.shards, self.shares)
        sha = hashlib.sha256(repr((facts, self.minibatches) if self.by_batch else facts).encode())
        for column in (self.action, self.stage, self.round, self.node, self.shard, self.first, self.source):
            sha.update(column.astype(column.dtype.newbyteorder("<"), copy=False).tobytes())
        sha.update(self.carries.tobytes())
        return sha.hexdigest()

    def name(self, row: int) -> str:
        """A row in words, for messages: `row 7 (train block 2, chapter 3, node 1)`, all counted from 1 but the row."""
        action, stage = Action(self.action[row]), int(self.stage[row])
        if self.streams:
            where = f"microbatch {self.shard[row] % self.shards + 1}, step {self.chapter[row] + 1}"
            return f"row {row} ({action.name.lower()} block {stage + 1}, {where}, node {self.node[row] + 1})"
        what = "" if action == Action.NEGATIVES else " head" if stage == self.blocks else f" block {stage + 1}"
        return f"row {row} ({action.name.lower()}{what}, {self.when(row)}, node {self.node[row] + 1})"

    def when(self, row: int) -> str:
        """A row's round in words: `chapter 3`, or `chapter 3, minibatch 7`."""
        chapter, within = divmod(int(self.round[row]), self.rounds_per_chapter)
        return f"chapter {chapter + 1}" + (f", minibatch {within + 1}" if self.by_batch else "")

    def rows_of(self, nodes: set[int]) -> list[int]:
        """The rows of some nodes, in the order they are carried out."""
        return np.flatnonzero(np.isin(self.node, sorted(nodes))).tolist()
