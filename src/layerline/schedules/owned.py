"""The pattern of schedules whose nodes own stages: Single-Layer and DFF.

    column d of the grid     node n·D + d owns group n of the stages, for shard d
    blocks before group n    forwarded again on the node, or their outputs received (activations)
    negatives                by the last node, or parts of it by all, `delay[n]` chapters before node n uses them

The pattern is laid out slot by slot (a node lags as many chapters as it has nodes before it), unless some delay is so
short that the labels would come later than that: then chapter by chapter, and the nodes wait for each other.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from layerline.schedules.pattern import Input, Step, repeat
from layerline.schedules.plan import Action, Carries, Plan
from layerline.schedules.work import Work


@dataclass(frozen=True, kw_only=True)
class Owned:
    """Who owns, who ranks, what travels."""

    work: Work
    groups: list[range]
    """The stages of each node of a column."""
    shards: int
    shares: tuple[float, ...]
    rankers: list[int]
    """The nodes of a column that make labels, each the part of `shares` in its place."""
    activations: bool
    delay: tuple[int, ...]

    steps: list[Step] = field(default_factory=list, init=False)
    trained: dict[tuple[int, int], int] = field(default_factory=dict, init=False)
    """The step that trains (stage, shard)."""

    def plan(self, schedule: str) -> Plan:
        """Lay it all out."""
        wanting: list[tuple[Step, int, int]] = []
        for shard in range(self.shards):
            self._column(shard, wanting)
        for (stage, _), at in self.trained.items():
            copies = [self.trained[stage, shard] for shard in range(self.shards)]
            self.steps[at].inputs[:0] = [Input(copy, Carries.STATE, 1) for copy in copies]
        if self.work.judged:
            made = {shard: self._negatives(shard) for shard in range(self.shards)}
            for step, node, shard in wanting:
                step.inputs.extend(Input(at, Carries.LABELS, self.delay[node]) for at in made[shard])
        return repeat(self.steps, schedule=schedule, work=self.work, shards=self.shards, shares=self.shares)

    @property
    def _by_slot(self) -> bool:
        """Whether labels that are made slot by slot are there when they are used."""
        return all(delay >= len(self.groups) - node + self._shared for node, delay in enumerate(self.delay))

    @property
    def _shared(self) -> bool:
        """Labels are made by others than the last node, which has the chapter's weights a slot before them."""
        return self.rankers != [len(self.groups) - 1]

    def _lag(self, node: int) -> int:
        return node if self._by_slot or not self.work.judged else 0

    def _column(self, shard: int, wanting: list[tuple[Step, int, int]]) -> None:
        """Training and forwarding on the nodes of one shard; `wanting` collects the steps that need labels."""
        handed: list[Input] = []  # outputs of the last forwarded block, where they are handed over
        for node, group in enumerate(self.groups):
            blocks = range(min(group.start, self.work.blocks), min(group.stop, self.work.blocks))
            outputs = handed if self.activations else []
            begin = blocks.start if self.activations else 0
            for block in range(begin, blocks.stop) if blocks else ():
                if block in blocks:
                    step = Step(Action.TRAIN, block, node * self.shards + shard, list(outputs), shard, self._lag(node))
                    self.trained[block, shard] = self._add(step, block, node, wanting)
                if self._forwards(block, blocks.stop - 1):
                    weights = Input(self.trained[block, shard], Carries.WEIGHTS)
                    inputs = [weights, *outputs]
                    step = Step(Action.FORWARD, block, node * self.shards + shard, inputs, shard, self._lag(node))
                    outputs = [Input(self._add(step, block, node, wanting), Carries.OUTPUTS)]
            handed = outputs
            if group.stop > self.work.blocks:
                lag = self._lag(node)
                head = Step(Action.TRAIN, self.work.blocks, node * self.shards + shard, self._all(shard), shard, lag)
                self.trained[self.work.blocks, shard] = self._add(head, self.work.blocks, node, wanting)

    def _forwards(self, block: int, last: int) -> bool:
        """Whether a node whose last block is `last` brings the set through `block`, too."""
        return block < last or (self.activations and block + 1 < self.work.blocks)

    def _negatives(self, shard: int) -> list[int]:
        """The steps that make a shard's labels: right after the last stage, or a slot later where all nodes share."""
        made = []
        for part, node in enumerate(self.rankers):
            lag = len(self.groups) if self._shared and self._by_slot else self._lag(len(self.groups) - 1)
            at = node * self.shards + shard
            number = shard * len(self.rankers) + part
            self.steps.append(Step(Action.NEGATIVES, 0, at, self._all(shard), number, lag))
            made.append(len(self.steps) - 1)
        return made

    def _all(self, shard: int) -> list[Input]:
        """The weights of every stage trained in this chapter."""
        return [Input(at, Carries.WEIGHTS) for (_, own), at in self.trained.items() if own == shard]

    def _add(self, step: Step, stage: int, node: int, wanting: list[tuple[Step, int, int]]) -> int:
        self.steps.append(step)
        if stage == 0:
            wanting.append((step, node, step.shard if isinstance(step.shard, int) else 0))
        return len(self.steps) - 1
