"""How the blocks of a stream wait for each other: not at all, or at every minibatch, or as another run did.

sync        every block learns from every minibatch, in order
async       blocks run freely and take what their replay buffer gives them: on one node a virtual clock says who is how
            fast, over several nodes it is as it comes
recorded    the order of events of another run, done again to the same bits
"""

from __future__ import annotations

import hashlib
import random
from abc import abstractmethod
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator

from layerline.errors import UsageError
from layerline.schedules.free_running import run_freely
from layerline.schedules.order import Order
from layerline.settings import Settings


class BaseTiming(Settings):
    """How blocks wait for each other."""

    @abstractmethod
    def order(self, blocks: int, steps: int, seed: int) -> Order | None:
        """The order in which blocks take minibatches; None where all take every one. UsageError if there is none."""

    @property
    def settled(self) -> Self:
        """With everything that was left open."""
        return self


class Sync(BaseTiming):
    """Every block learns from every minibatch, in order."""

    kind: Literal["sync"] = "sync"

    def order(self, blocks: int, steps: int, seed: int) -> Order | None:
        return None


class Async(BaseTiming):
    """Blocks run freely, each with a replay buffer of the block below (DGL, arXiv 1901.08164): on one node by a virtual
    clock, over several in real time."""

    kind: Literal["async"] = "async"
    buffer: int = Field(default=1, ge=1)
    """Minibatches that a replay buffer holds; the literature's M."""
    max_reuse: int | None = Field(default=None, ge=1)
    """How often the block that reads it may use a minibatch; past that it idles. Left out: without limit."""
    slowdowns: tuple[float, ...] = ()
    """How long a step of each block takes beside the others', one number a block; left out: all the same. Over several
    nodes: times what it takes anyway, the smallest number counted as 1."""
    pace: Literal["regular", "random"] = "regular"
    """"regular": every step takes its time; "random": exponentially distributed with that mean, so that who is next is
    drawn at random, slow blocks less often, as in the paper's simulation. On one node only."""
    link_delay: float | None = Field(default=None, gt=0, le=60)
    """Seconds by which everything that one node sends to another comes later, to try a distant one. Left out: none."""

    @field_validator("slowdowns")
    @classmethod
    def _positive(cls, slowdowns: tuple[float, ...]) -> tuple[float, ...]:
        if any(slowdown <= 0 for slowdown in slowdowns):
            raise ValueError("every number should be greater than 0")
        return slowdowns

    def order(self, blocks: int, steps: int, seed: int) -> Order:
        if self.link_delay:
            raise UsageError("on one node nothing is sent", hint="leave out --link-delay, or choose --nodes")
        paces = [self._times(slowdown, block, seed) for block, slowdown in enumerate(self.paces(blocks))]
        return Order.of(run_freely(paces, steps, self.buffer, self.max_reuse), blocks, steps)

    def paces(self, blocks: int) -> tuple[float, ...]:
        """The slow-down of each block. UsageError for another number of them."""
        slowdowns = self.slowdowns or (1.0,) * blocks
        if len(slowdowns) != blocks:
            raise UsageError(
                f"--slowdowns has {len(slowdowns)} number(s), the network {blocks} block(s)",
                hint=f"for example: --slowdowns {','.join(['1'] * blocks)}",
            )
        return slowdowns

    def factors(self, blocks: int) -> tuple[float, ...]:
        """Over nodes: how many times as long as it would a step of each block takes, the fastest 1. UsageError."""
        if self.pace == "random":
            raise UsageError("a random pace is one of the virtual clock", hint="leave out --pace, or --nodes")
        paces = self.paces(blocks)
        return tuple(pace / min(paces) for pace in paces)

    def _times(self, slowdown: float, block: int, seed: int) -> Iterator[float]:
        """How long the steps of a block take, one after the other: a function of seed and block."""
        if self.pace == "regular":
            return repeat(slowdown)
        draw = random.Random(f"{seed} pace {block}")
        return (draw.expovariate(1 / slowdown) for _ in repeat(None))


class Recorded(BaseTiming):
    """The order of events that another run recorded, with the same settings otherwise: the same bits."""

    kind: Literal["recorded"] = "recorded"
    order_file: str = "order.npy"
    """`order.npy` in the folder of that run."""
    order_sha256: str | None = None
    """Digest of the file; it is filled in when the run is started, and the file must not change after that."""

    @property
    def settled(self) -> Recorded:
        return Recorded(order_file=str(Path(self.order_file).resolve()), order_sha256=self._digest())

    def order(self, blocks: int, steps: int, seed: int) -> Order:
        if self.order_sha256 not in (None, self._digest()):
            raise UsageError(
                f"{self.order_file} is not the file that the run was started with",
                hint="bring that one back, or start a new run",
            )
        return Order.read(Path(self.order_file), blocks, steps)

    def _digest(self) -> str:
        try:
            return hashlib.sha256(Path(self.order_file).read_bytes()).hexdigest()
        except OSError as error:
            raise UsageError(
                f"cannot read {self.order_file}: {error.strerror or error}",
                hint="name the one of the run to be done again: --order-file RUN_DIR/order.npy",
            ) from None


Timing = Annotated[Sync | Async | Recorded, Field(discriminator="kind")]
