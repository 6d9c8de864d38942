"""How often nodes exchange what they trained: per chapter, or after every minibatch.

A **round** is what lies between two exchanges, and a slot is one block for one round. Per chapter, a round is a
chapter. Per batch, a round is one minibatch on every node that trains it:

    an epoch         B = ⌈n / D / batch⌉ rounds, for n images in D shards
    its minibatches  whole set: the run's minibatches; of a shard: the shard cut into B equal parts, so that all nodes
                     meet equally often, and unequal shards have unequal minibatches

The paper exchanges per chapter, and names per batch as future work (PFF, arXiv 2404.08573).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from layerline.errors import UsageError

if TYPE_CHECKING:
    from layerline.schedules.base import BaseSchedule

Exchange = Literal["chapter", "batch"]


@dataclass(frozen=True, kw_only=True)
class Minibatches:
    """A training set in minibatches."""

    examples: int
    batch: int
    """Images in a minibatch."""
    epochs: int
    """Epochs a chapter."""

    def of_an_epoch(self, shards: int) -> int:
        """B, the same for every node."""
        largest = math.ceil(self.examples / shards)
        return math.ceil(largest / self.batch)

    def of_a_chapter(self, shards: int) -> int:
        """Rounds of a chapter. UsageError where there are none."""
        count = self.epochs * self.of_an_epoch(shards)
        if count < 1:
            raise UsageError("a plan needs at least one minibatch, and there are no images")
        return count


def check_exchange(schedule: BaseSchedule, exchange: Exchange) -> None:
    """UsageError for a schedule whose nodes cannot meet so often."""
    if exchange == "batch" and not schedule.meets_per_batch:
        raise UsageError(
            f"{schedule.described} exchanges per chapter only: "
            "per batch is for all-layers, and for federated where blocks are averaged",
            hint="choose --schedule all-layers, --schedule federated --average, or --exchange chapter",
        )
