"""The run of a stream: minibatches travel through the blocks, and a block learns from a loss at most `reach` ahead.

    reach 1         every block by its own head: DGL                        arXiv 1901.08164
    reach 2, 3, …   by the head 1, 2, … blocks ahead: interlocking          arXiv 2010.04116
    reach all       by the network's own loss: backprop

One frozen description as `run`, for another way to train; what both have is in `base_run`.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from layerline.base_run import BaseRun
from layerline.blocks.architecture import Architecture, OwnLayers
from layerline.blocks.conv import Conv
from layerline.blocks.cut import Cut, CutCount, CutLayers
from layerline.blocks.heads.ahead import ManHead
from layerline.blocks.heads.heads import Head
from layerline.blocks.heads.image import MlpSrHead
from layerline.blocks.heads.text import SharedUnembeddingHead
from layerline.blocks.transformer import Transformer
from layerline.errors import UsageError
from layerline.objectives.descent import Descent, Sgd
from layerline.schedules.methods import LOOPS, Method, owns_stages, refuse_shape
from layerline.schedules.stream import WINDOW
from layerline.schedules.timing import Sync, Timing
from layerline.schedules.work import check_speeds
from layerline.transport.boundary import Boundary, Plain
from layerline.transport.codecs import Fp32


class StreamRun(BaseRun):
    """Everything that decides the result of a training in a stream."""

    kind: Literal["stream"] = "stream"
    dataset: str = "mnist"
    """A known set, an .npz file, an image folder, hf:NAME of the Hugging Face hub, or a text: tinyshakespeare, a .txt
    file."""
    network: Architecture = Conv()
    """The layers."""
    cut: Cut = CutLayers()
    """How the layers become blocks."""
    reach: int | Literal["all"] = 1
    """How many blocks a gradient may cross, its own counted: 1 is DGL, more is interlocking, all is backprop."""
    microbatches: int = Field(default=1, ge=1)
    """Parts of a minibatch that follow each other through the blocks; gradients add up before the update. With DDP:
    of each node's part."""
    window: int = Field(default=WINDOW, ge=1, le=1024)
    """Microbatches that a node may be ahead of the next one, and so the most that wait for it, with reach 1. More let a
    link be slower, and take more memory; the result is the same."""
    owns: tuple[int, ...] | None = None
    """How many blocks each node owns, one node after the other; left out: dealt out by a cost formula, so that the
    slowest node is as fast as it can be."""
    method: Method | None = None
    """Who computes backprop (reach all): PyTorch's DDP or pipeline schedules, or one process by itself; left out: the
    plan of streams."""
    head: Head = MlpSrHead()
    """From a block's output to class scores, where a loss is taken there."""
    tokens: Literal["characters", "bytes"] = "characters"
    """What a language model reads a text as."""
    optimizer: Descent = Sgd()
    """The optimizer of every block and its head."""
    smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Label smoothing of every loss (Szegedy et al., arXiv 1512.00567)."""
    timing: Timing = Sync()
    """Whether blocks wait for each other at every minibatch, or run freely with replay buffers between them."""
    boundary: Boundary = Plain()
    """How outputs travel to the next block, and wait in its replay buffer: as they are, rounded, or as indices of
    codes."""
    max_steps: int | None = Field(default=None, ge=1)
    """Minibatches after which training ends, however many epochs were planned: for a quick try."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if isinstance(self.reach, int) and self.reach < 1:
            raise UsageError(
                f"a gradient reaches at least its own block, got --reach {self.reach}", hint="choose --reach 1"
            )
        self._refuse_parts()
        self._refuse_dependence()
        self._refuse_method()
        self._refuse_window()
        self._refuse_owns()
        check_speeds(self.speeds, self.nodes)
        return self

    def _refuse_parts(self) -> None:
        """UsageError for a minibatch that does not make as many microbatches: all but the last are of one size."""
        size = -(-self.batch_size // self.parts)
        made = -(-self.batch_size // size)
        if made == self.parts:
            return
        many = f", {self.microbatches} on each of {self.nodes} nodes" if self.parts != self.microbatches else ""
        raise UsageError(
            f"{self.batch_size} examples do not make {self.parts} microbatches{many}: of {size} there are {made}",
            hint=f"choose a --batch-size that {self.parts} divides, or --microbatches and --nodes that divide it",
        )

    def _refuse_dependence(self) -> None:
        """UsageError for what only blocks can do that depend on no later block."""
        hint = "choose --reach 1" if self.method is None else "leave out --timing and --boundary"
        free, one = not isinstance(self.timing, Sync), self.reach == 1
        if free and not one:
            raise UsageError("blocks can run freely only where no gradient goes back to them", hint=hint)
        if free and isinstance(self.head, ManHead | SharedUnembeddingHead):
            raise UsageError(
                f"a block cannot run freely with a {self.head.kind} head, which follows the weights of a later block",
                hint="choose another --head",
            )
        if not one and not isinstance(self.boundary, Plain):
            raise UsageError("a gradient cannot go back through outputs that were rounded or coded", hint=hint)

    def _refuse_method(self) -> None:
        """UsageError for what the chosen method cannot do."""
        if self.method is None:
            return
        if self.reach != "all":
            raise UsageError(
                f"--method {self.method} is backprop, whose gradient reaches all blocks, and this run has --reach "
                f"{self.reach}",
                hint="choose --reach all, or leave out --method",
            )
        refuse_shape(self.method, self.nodes, self.microbatches)
        if not isinstance(self.codec, Fp32):
            raise UsageError(
                f"--method {self.method} is PyTorch's own, which sends tensors as they are", hint="leave out --codec"
            )
        if self.method == "ddp" and self.speeds:
            raise UsageError("DDP gives every node as much to do", hint="leave out --speeds")

    def _refuse_window(self) -> None:
        """UsageError for a window where none is looked through."""
        if self.window != WINDOW and (self.reach != 1 or not isinstance(self.timing, Sync)):
            why = (
                "gradients that come back do that" if self.reach != 1 else "blocks that run freely have replay buffers"
            )
            raise UsageError(
                f"--window {self.window} has nothing to bound: {why}",
                hint="leave out --window, or choose --reach 1 and --timing sync",
            )

    def _refuse_owns(self) -> None:
        """UsageError for a deal where nodes do not own blocks in a row. Whether it fits is known with the network."""
        if self.owns is None:
            return
        if self.method is not None and not owns_stages(self.method):
            what = {"plain": "is one process", "ddp": "gives all blocks to every node"}
            raise UsageError(
                f"--owns deals blocks out in a row, and --method {self.method} "
                f"{what.get(self.method, f'puts {LOOPS} stages on every node')}",
                hint="leave out --owns",
            )
        if self.nodes == 1:
            raise UsageError(
                "--owns deals blocks out to several nodes, and this run has one",
                hint=f"choose --nodes {max(2, len(self.owns))}, or leave out --owns",
            )

    @property
    def parts(self) -> int:
        """Microbatches of a whole minibatch."""
        return self.microbatches * (self.nodes if self.method == "ddp" else 1)

    @property
    def settled(self) -> dict[str, Any]:
        return {"timing": self.timing.settled}

    @property
    def facts(self) -> dict[str, Any]:
        more = {name: value for name in ("method", "max_steps") if (value := getattr(self, name)) is not None}
        return {"reach": self.reach, "microbatches": self.microbatches, "timing": self.timing.kind, **more}

    @property
    def cuts_by_time(self) -> bool:
        """True where blocks are to take equally long, which is measured when the run is started."""
        return isinstance(self.cut, CutCount) and self.cut.balance == "time"

    def with_own_network(self) -> StreamRun:
        """The same run for layers handed in from Python."""
        return self if isinstance(self.network, OwnLayers) else self.replace(network=OwnLayers())

    @property
    def reads_text(self) -> bool:
        """True for language models, whose data is a text."""
        return isinstance(self.network, Transformer)

    def reached(self, blocks: int) -> int:
        """The reach as a number, for a network of so many blocks. UsageError if it is more than there are."""
        if self.reach == "all":
            return blocks
        if self.reach > blocks:
            raise UsageError(
                f"a gradient cannot reach over {self.reach} of {blocks} block{'s' * (blocks > 1)}",
                hint="choose --reach all for backprop",
            )
        return self.reach
