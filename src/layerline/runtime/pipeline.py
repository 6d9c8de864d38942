"""A training over logical nodes: this process's part of a plan, from the finished slots to the finished model.

    plan ─┬─ node 0 ─ rows ─┐
          ├─ node 1 ─ rows ─┼─ slots/ ─ the last chapter's blocks ─ model, metrics, trace
          └─ …              ┘

Nodes are part of the plan and decide the bits; processes are not, and don't.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from layerline.data.dataset import Dataset, Examples
from layerline.data.own import OwnData
from layerline.data.shards import BaseShards
from layerline.errors import Stopped
from layerline.events import EpochDone, Listener, Row
from layerline.run import Run
from layerline.runtime.accounts import account
from layerline.runtime.averaging import Shares, mean
from layerline.runtime.chapters import ChapterTrainer
from layerline.runtime.execute import refuse_divergence
from layerline.runtime.minibatches import MinibatchNode
from layerline.runtime.model import Model, build_model
from layerline.runtime.needs import last_slots
from layerline.runtime.node import Node
from layerline.runtime.planning import sizes_of
from layerline.runtime.post import Post
from layerline.runtime.round_worker import RoundWorker
from layerline.runtime.slots import Slots
from layerline.runtime.snapshots import Snapshots, rounds_between
from layerline.runtime.stop import Stop
from layerline.runtime.worker import Worker
from layerline.schedules.plan import Action, Plan
from layerline.transport.in_process import InProcess


@dataclass(frozen=True)
class Others:
    """What is known of nodes in other processes; the defaults: there are none."""

    done: Callable[[], set[int]] = set
    """The rows with a result on disk."""
    kept: dict[int, set[int]] = field(default_factory=dict)
    """Where nodes exchange per batch: the rows that each had a state or a result under at the start."""
    kept_last: Callable[[int], int] = lambda node: -1
    """The same now, the last one of a node; −1: none yet."""


class Pipeline:
    """Carries out the rows of `nodes` of a plan (None: of all)."""

    def __init__(
        self,
        run: Run,
        plan: Plan,
        data: Dataset | OwnData,
        folder: Path,
        *,
        nodes: Iterable[int] | None = None,
        blocks: Sequence[nn.Module] | None = None,
        stays: bool = True,
    ) -> None:
        """`stays`: the folder is there for a later sitting."""
        self.run, self.plan, self.data, self.blocks, self.stays = run, plan, data, blocks, stays
        whose = data.digest() if isinstance(data, Dataset) else "each node's own"
        self.slots = Slots(folder / "slots", {"run": run.digest(), "data": whose, "plan": plan.digest()})
        mine = sorted(nodes) if nodes is not None else range(plan.nodes)
        if isinstance(data, OwnData):
            for number in mine:
                self.slots.hold(number, data.digests[number])
        self.nodes = {number: make_node(run, plan, data, number, blocks) for number in mine}
        self.shares = Shares.of(run, plan, data)

    def minibatches(self) -> tuple[int, int]:
        """Those of this process's slots: in finished ones, and in all."""
        done = total = 0
        for number, node in self.nodes.items():
            slots = np.flatnonzero((self.plan.node == number) & (self.plan.action == Action.TRAIN))
            kept = self.slots.done(number)
            finished = slots <= max(kept, default=-1) if self.plan.by_batch else np.isin(slots, list(kept))
            each = 1 if self.plan.by_batch else node.batches * self.run.epochs_per_chapter
            done += each * int(np.count_nonzero(finished))
            total += each * len(slots)
        return done, total

    def work(
        self,
        listener: Listener,
        stop: Stop,
        post: Post,
        *,
        sitting: int = 0,
        others: Others | None = None,
    ) -> None:
        """Do what is left to do. Stopped when asked to: finished slots stay, the one in flight is lost; where nodes
        exchange per batch, all since the last snapshot."""
        self.slots.sweep()
        worker = self._worker(post, sitting, others or Others())
        with closing(worker.work()) as events:
            for event in events:
                listener(event)
                if isinstance(event, EpochDone):
                    refuse_divergence(event.rows, self.run.optimizer.lr)
                if stop.exit_status is not None:
                    break
        self.heed(stop)

    def _worker(self, post: Post, sitting: int, others: Others) -> Worker | RoundWorker:
        if not self.plan.by_batch:
            return Worker(
                self.plan,
                self.nodes,
                self.slots,
                post,
                sitting=sitting,
                done_elsewhere=others.done,
                shares=self.shares,
            )
        sizes = sizes_of(self.run, self.data.shape, self.data.num_classes, self.data.examples)
        snapshots = Snapshots(self.plan, rounds_between(self.run, self.plan, sizes))
        nodes = {number: node for number, node in self.nodes.items() if isinstance(node, MinibatchNode)}
        snapshot = snapshots.latest(self.kept() | others.kept)
        return RoundWorker(
            self.plan,
            nodes,
            self.slots,
            post,
            snapshots,
            snapshot,
            sitting=sitting,
            kept_elsewhere=others.kept_last,
            shares=self.shares,
        )

    def kept(self) -> dict[int, set[int]]:
        """The rows of each node here that have a result, or a state of the node, on disk."""
        return {node: {row for row in self.slots.done(node) if self.slots.has(row)} for node in self.nodes}

    def here(self) -> Post:
        """The post of a single process with all nodes."""
        transport = InProcess(self.plan.nodes, codec=self.run.codec)
        return Post(self.plan, transport, moments=self.run.send_optimizer_state)

    def model(self, post: Post | None = None) -> Model:
        """The finished model: the blocks of the last chapter, the mean of the shards' where there are several.

        `post`: brings those of other processes.
        """
        last = last_slots(self.plan)
        model = build_model(self.run, self.data, self.blocks).to(self.run.device)
        for stage in range(self.plan.stages):
            rows = [row for row in last if self.plan.stage[row] == stage]
            versions = [
                self.slots.load(row) if post is None or int(self.plan.node[row]) in self.nodes else post.final(row)
                for row in rows
            ]
            counts = self.shares.among(self.plan, rows)
            with torch.no_grad():
                for name, tensor in model.stage_tensors(stage).items():
                    tensor.copy_(mean([version[name].to(tensor.device) for version in versions], counts))
        return model

    def tidy(self) -> None:
        """When all nodes are done: what was kept for those that were behind can go, too."""
        last = set(last_slots(self.plan))
        for node in self.nodes:
            for row in self.slots.done(node) - last:
                self.slots.drop(row)
        self.slots.sweep()

    def heed(self, stop: Stop) -> None:
        """Stopped when asked to."""
        if stop.exit_status is None:
            return
        if not self.stays:
            raise Stopped("training was stopped; nothing was saved", exit_status=stop.exit_status)
        if self.plan.by_batch:
            before, every = self.minibatches()
            raise Stopped(
                f"training was stopped; {before:,} of {every:,} minibatches are saved",
                exit_status=stop.exit_status,
                hint=f"go on with: layerline resume {self.slots.folder.parent}",
            )
        rows = np.flatnonzero(np.isin(self.plan.node, list(self.nodes)) & (self.plan.action != Action.FORWARD))
        done = sum(len(self.slots.done(node)) for node in self.nodes)
        raise Stopped(
            f"training was stopped after {done:,} of {len(rows):,} slots, which are saved",
            exit_status=stop.exit_status,
            hint=f"go on with: layerline resume {self.slots.folder.parent}",
        )


def make_node(
    run: Run, plan: Plan, data: Dataset | OwnData, number: int, blocks: Sequence[nn.Module] | None = None
) -> Node:
    """A logical node: a model from the run's seed (or a copy of one's own blocks), and its part of the data."""
    model = build_model(run, data, copy.deepcopy(blocks)).to(run.device)
    part = part_of(run, plan, data, number)
    if plan.by_batch:
        return MinibatchNode(model, part, plan.minibatches // run.epochs_per_chapter, whole=plan.shards == 1)
    return ChapterTrainer(model, part)


def part_of(run: Run, plan: Plan, data: Dataset | OwnData, number: int) -> Dataset:
    """The data that a node trains on."""
    if isinstance(data, OwnData):
        return data.parts[number]
    mine = plan.shard[(plan.node == number) & (plan.action == Action.TRAIN)]
    if plan.shards > 1 and len(mine):
        assert isinstance(run.shards, BaseShards)
        parts = run.shards.split(data.train.labels.numpy(), plan.shards, run.seed)
        part = torch.from_numpy(parts[int(mine[0])])
        data = replace(data, train=Examples(data.train.inputs[part], data.train.labels[part]))
    return data


def _busy(fact: Mapping[str, Any]) -> float:
    """Seconds of a row, or of all rows that were noted together."""
    seconds: float = fact["busy"] if "busy" in fact else fact["end"] - fact["begin"]
    return seconds


@dataclass(frozen=True)
class Measured:
    """What the nodes of a plan noted, over all sittings of a run."""

    facts: dict[int, list[dict[str, Any]]]
    """What each node did: row, sitting, begin, end (seconds since 1970), metrics."""

    @staticmethod
    def of(slots: Slots, nodes: int) -> Measured:
        """As it stands in the folder."""
        return Measured({node: slots.told(node) for node in range(nodes)})

    @property
    def sittings(self) -> int:
        """How often the run was started."""
        return 1 + max((each["sitting"] for facts in self.facts.values() for each in facts), default=-1)

    @property
    def seconds(self) -> float:
        """From the first row's begin to the last one's end, without the time between two sittings."""
        total = 0.0
        for sitting in range(self.sittings):
            facts = [each for every in self.facts.values() for each in every if each["sitting"] == sitting]
            total += max((f["end"] for f in facts), default=0.0) - min((f["begin"] for f in facts), default=0.0)
        return total

    @property
    def busy(self) -> list[float]:
        """Seconds each node worked."""
        return [sum(map(_busy, facts)) for facts in self.facts.values()]

    def rows(self) -> list[Row]:
        """The numbers of every epoch and block, as in `metrics.csv`. A slot that was done twice counts once."""
        latest = {each["row"]: each["metrics"] for facts in self.facts.values() for each in facts}
        return [Row(**numbers) for row in sorted(latest) for numbers in latest[row]]

    def values(self, processes: int) -> dict[str, Any]:
        """For `result.json`."""
        sent = sum(each["bytes"] for facts in self.facts.values() for each in facts)
        return account(self.seconds, self.busy, sent, processes)
