"""What there is to do and who does it, in numbers: all that a schedule may look at.

The costs need no unit. They decide how blocks are dealt to nodes, and only there.
"""

from __future__ import annotations

from dataclasses import dataclass

from layerline.errors import UsageError
from layerline.schedules.exchange import Minibatches


@dataclass(frozen=True, kw_only=True)
class Work:
    """A network, its chapters and the nodes. UsageError for numbers that are no work."""

    blocks: int
    chapters: int
    nodes: int = 1
    head: bool = False
    """The softmax readout is trained as a stage of its own, after the blocks."""
    judged: bool = False
    """New negatives come from the network's scores (adaptive, sampled), so they are work and wait for it."""
    train: tuple[float, ...] = ()
    """Cost of training each stage for a chapter; left out: 1 each."""
    forward: tuple[float, ...] = ()
    """Cost of bringing the training set through each block; left out: a third of 1 each."""
    ranking: float = 1.0
    """Cost of new negatives for the whole set, where they are judged."""
    speeds: tuple[float, ...] = ()
    """How fast each node is beside the others; left out: all the same."""
    minibatches: Minibatches | None = None
    """What nodes meet after, where they exchange per batch; left out: they exchange per chapter."""

    def __post_init__(self) -> None:
        for name, count in (("block", self.blocks), ("chapter", self.chapters), ("node", self.nodes)):
            if count < 1:
                raise UsageError(f"a plan needs at least one {name}, got {count}")
        check_speeds(self.speeds, self.nodes)
        object.__setattr__(self, "speeds", self.speeds or (1.0,) * self.nodes)
        object.__setattr__(self, "train", self.train or (1.0,) * self.stages)
        object.__setattr__(self, "forward", self.forward or (1 / 3,) * self.blocks)
        if len(self.train) != self.stages or len(self.forward) != self.blocks:
            raise UsageError(
                f"{len(self.train)} training and {len(self.forward)} forwarding costs do not fit {self.stages} stages, "
                f"{self.blocks} of them blocks"
            )

    @property
    def stages(self) -> int:
        """Blocks, and the head where there is one."""
        return self.blocks + self.head

    def rounds(self, shards: int) -> int:
        """Exchanges in the whole training, where the training set is in so many shards."""
        return self.chapters * (self.minibatches.of_a_chapter(shards) if self.minibatches else 1)


def check_speeds(speeds: tuple[float, ...], nodes: int) -> None:
    """UsageError unless there are none, or one above 0 for every node."""
    if speeds and len(speeds) != nodes:
        raise UsageError(
            f"{len(speeds)} speeds for {nodes} node{'s' * (nodes != 1)}",
            hint=f"give one for every node, like --speeds {','.join(['1'] * min(nodes, 4))}",
        )
    if any(not 0 < speed < float("inf") for speed in speeds):
        raise UsageError(f"speeds are numbers above 0, got {', '.join(f'{s:g}' for s in speeds)}")
