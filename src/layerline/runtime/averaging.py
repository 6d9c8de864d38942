"""The mean of a block's copies, each trained on another shard.

    by examples   Σ n_k·w_k / Σ n_k       n_k examples in copy k's shard (FedAvg: McMahan et al., arXiv 1602.05629)
    equal         Σ w_k / K               all-layers, single-layer and `--mean equal`

The sums go in the order of the copies, which is the plan's, so that they have the same bits in any process. Counts are
taken without their common divisor: of equal shards both means are the same, to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from layerline.data.dataset import Dataset
from layerline.data.own import OwnData
from layerline.data.shards import BaseShards
from layerline.run import Run
from layerline.schedules.federated import Federated
from layerline.schedules.plan import Plan


@dataclass(frozen=True)
class Shares:
    """How much a shard's copy of a block counts."""

    examples: tuple[int, ...] = ()
    """Of every shard; empty: all count the same."""

    @staticmethod
    def of(run: Run, plan: Plan, data: Dataset | OwnData) -> Shares:
        """As the run says: by examples where a federated schedule averages so."""
        if not isinstance(run.schedule, Federated) or not run.schedule.average or run.schedule.mean != "examples":
            return Shares()
        if isinstance(data, OwnData):
            return Shares(tuple(account.examples for account in data.accounts))
        assert isinstance(run.shards, BaseShards)
        parts = run.shards.split(data.train.labels.numpy(), plan.shards, run.seed)
        return Shares(tuple(len(part) for part in parts))

    def among(self, plan: Plan, rows: Sequence[int]) -> list[int]:
        """How much the copies that these rows trained count beside each other, in the smallest whole numbers."""
        counts = [self.examples[int(plan.shard[row])] if self.examples else 1 for row in rows]
        divisor = math.gcd(*counts)
        return [count // divisor for count in counts]


ALIKE = Shares()


def mean(versions: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """The mean of `versions`, which are left as they are. `counts`: how much each of them counts."""
    if len(versions) == 1:
        return versions[0]
    if versions[0].dim() == 0:  # of step counts, times examples, float32 would not have all digits
        versions = [version.double() for version in versions]
    total = _times(versions[0], counts[0])
    for version, count in zip(versions[1:], counts[1:], strict=True):
        total = total + _times(version, count)
    return total / sum(counts)


def _times(tensor: Tensor, count: int) -> Tensor:
    return tensor if count == 1 else tensor * count
