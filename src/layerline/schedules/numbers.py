"""A network that exists in numbers only: enough to plan, with neither a preset nor PyTorch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from layerline.schedules.all_layers import AllLayers
from layerline.schedules.costs import Sizes
from layerline.schedules.dff import Dff
from layerline.schedules.exchange import Exchange, Minibatches, check_exchange
from layerline.schedules.schedule import Schedule
from layerline.schedules.work import Work
from layerline.settings import Settings


class Numbers(Settings):
    """What `layerline plan --blocks N` plans: equal Linear + ReLU blocks trained by Forward-Forward."""

    blocks: int = Field(default=4, ge=1)
    """Blocks of the network."""
    width: int = Field(default=2000, ge=1)
    """Units of every block."""
    inputs: int = Field(default=784, ge=1)
    """Features of an image, as the first block sees it."""
    classes: int = Field(default=10, ge=1)
    """Classes to tell apart."""
    examples: int = Field(default=60_000, ge=1)
    """Images in the training set."""
    negatives: Literal["fixed", "random", "adaptive", "sampled"] = "random"
    """Adaptive and sampled ones are ranked by the network, which takes time."""
    readout: Literal["goodness", "softmax"] = "goodness"
    """A softmax readout is a stage of its own."""
    epochs: int | None = Field(default=None, ge=1)
    """Passes over the data for every block; left out: one a chapter."""
    chapters: int = Field(default=100, ge=1)
    """Equal parts the epochs are cut into."""
    batch_size: int = Field(default=64, ge=1)
    """Images in a minibatch."""
    precision: Literal["bf16-mixed", "32-true"] = "bf16-mixed"
    """Bytes of an activation: two or four."""
    schedule: Schedule = AllLayers()
    """Who trains which block when."""
    exchange: Exchange = "chapter"
    """How often nodes exchange: per chapter, or after every minibatch (all-layers; federated where it averages)."""
    nodes: int = Field(default=1, ge=1)
    """Logical workers of the schedule."""
    speeds: tuple[float, ...] = ()
    """How fast each node is beside the others; left out: all the same."""
    send_optimizer_state: bool = True
    """Adam's moments and step counts travel with a block that is handed on."""
    codec: Literal["fp32", "bf16", "int8"] = "fp32"
    """Weights on the wire: all, half or a quarter of their bytes."""

    @property
    def judged(self) -> bool:
        """True where new negatives come from the network's scores."""
        return self.negatives in ("adaptive", "sampled")

    def sizes(self) -> Sizes:
        """For the cost formula."""
        head = self.readout == "softmax"
        return Sizes(
            inputs=self.inputs,
            units=(self.width,) * self.blocks,
            classes=self.classes,
            examples=self.examples,
            batch=self.batch_size,
            epochs=max(1, (self.epochs or self.chapters) // self.chapters),
            head=head,
            judge=None if not self.judged else "head" if head else "goodness",
            number_bytes=2 if self.precision == "bf16-mixed" else 4,
            full_batch=isinstance(self.schedule, Dff) and self.schedule.batch == "full",
        )

    def work(self) -> Work:
        """For the schedule. UsageError for one that cannot exchange so often."""
        check_exchange(self.schedule, self.exchange)
        sizes = self.sizes()
        minibatches = Minibatches(examples=sizes.examples, batch=sizes.batch, epochs=sizes.epochs)
        return Work(
            blocks=self.blocks,
            chapters=self.chapters,
            nodes=self.nodes,
            head=self.readout == "softmax",
            judged=self.judged,
            speeds=self.speeds,
            minibatches=minibatches if self.exchange == "batch" else None,
        )
