"""Reach: how many blocks a gradient may cross, and so which loss trains which block.

N-wise interlocking (arXiv 2010.04116, §3): a block is trained *only* by the loss N − 1 blocks ahead, or by the last one
where that comes first. It is not a sum of losses. Four blocks, losses L1 … L4, each row the block that learns:

    reach 1 (local, DGL)     reach 2                  reach all (backprop)
    L1  L2  L3  L4           L1  L2  L3  L4           L1  L2  L3  L4
    1                            1                                1
        2                            2                            2
            3                            3                        3
                4                        4                        4

So a gradient of loss j goes down to the block it trains, and not further; a loss that trains no block need not be
computed. What crosses a boundary is a list, nearest loss first. Blocks and losses count from 0.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reach:
    """The pattern for `blocks` blocks, of which a gradient may cross `reach` (its own counts): 1 … blocks."""

    blocks: int
    reach: int

    def teacher(self, block: int) -> int:
        """The loss that trains a block."""
        return min(block + self.reach - 1, self.blocks - 1)

    @property
    def losses(self) -> tuple[int, ...]:
        """The losses that train a block, nearest to the input first."""
        return tuple(sorted({self.teacher(block) for block in range(self.blocks)}))

    def has_loss(self, block: int) -> bool:
        """Whether there is a loss at the output of a block."""
        return block in self.losses

    def crossing(self, block: int) -> tuple[int, ...]:
        """The losses whose gradients go from `block` to the block before it, nearest first. At most reach − 1."""
        return tuple(sorted({self.teacher(below) for below in range(block) if self.teacher(below) >= block}))

    def at(self, block: int) -> tuple[int, ...]:
        """The losses whose gradients are taken at a block's output: its own, if there is one, and those from above."""
        above = self.crossing(block + 1) if block + 1 < self.blocks else ()
        return ((block,) if self.has_loss(block) else ()) + above
