"""Adam for one block: fused, with its state in the open.

One optimizer per block (PFF authors' code), so that a block can be trained, saved and handed on alone. Moments and
master weights are float32 whatever the precision of the products; PyTorch's fused kernel makes one pass over them.

A step is a count and an update. Taken apart, the update can go over a large weight in chunks of rows, each while it is
in the cache: the kernel is elementwise, so the parts give what the whole gives.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from layerline.settings import Settings

_FADED = 1e-30
FADING = 128
"""Updates after which moments are looked through. One that fades takes longer than that from 1e-30 to the denormal
numbers: 0.9¹²⁸ · 1e-30 is still a normal one (β₁ ≥ 0.9)."""


@dataclass
class AdamState:
    """First and second moments and the step count of each parameter; updated in place."""

    first: list[Tensor]
    second: list[Tensor]
    steps: list[Tensor]

    @staticmethod
    def fresh(parameters: Sequence[Tensor]) -> AdamState:
        """Zero moments, no steps."""
        return AdamState(
            [torch.zeros_like(p) for p in parameters],
            [torch.zeros_like(p) for p in parameters],
            [torch.zeros((), dtype=torch.float32, device=p.device) for p in parameters],
        )

    def tensors(self) -> dict[str, Tensor]:
        """Everything to save, by name."""
        lists = {"first": self.first, "second": self.second, "steps": self.steps}
        return {f"{name}.{i}": tensor for name, tensors in lists.items() for i, tensor in enumerate(tensors)}

    def rows(self, index: int, chunks: int) -> list[AdamState]:
        """The state of one parameter, cut by rows as `Tensor.chunk` cuts: views, which share the count."""
        pairs = zip(self.first[index].chunk(chunks), self.second[index].chunk(chunks), strict=True)
        return [AdamState([first], [second], [self.steps[index]]) for first, second in pairs]

    def drop_faded(self) -> None:
        """First moments that have faded to nothing become 0: those of a unit that is never active end in denormal
        numbers, with which an update takes twice as long. Up to 1e-30 a moment moves no weight; once 0, it stays so."""
        for first in self.first:
            torch.hardshrink(first, _FADED, out=first)

    def after(self, index: int) -> AdamState:
        """The state of the parameters behind `index`."""
        return AdamState(self.first[index + 1 :], self.second[index + 1 :], self.steps[index + 1 :])


class Adam(Settings):
    """Adam (Kingma and Ba, arXiv 1412.6980)."""

    lr: float = Field(default=0.002, gt=0)
    """Learning rate of the blocks; PFF: 0.01."""
    head_lr: float | None = Field(default=None, gt=0)
    """Learning rate of a softmax readout, and of a head that only judges negatives; left out: that of the blocks.
    PFF: 0.0001. Local heads learn with their block, at `lr`."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the first moment; PFF: PyTorch's 0.9."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the second moment; PFF: PyTorch's 0.999."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the second moment."""
    weight_decay: float = Field(default=0.0, ge=0)
    """L2 penalty added to the gradient; Hinton's script: 0.001, PFF: none."""

    def init(self, parameters: Sequence[Tensor]) -> AdamState:
        """A fresh state: zero moments, no steps."""
        return AdamState.fresh(parameters)

    def step(
        self, state: AdamState, parameters: list[Tensor], gradients: list[Tensor], lr: float | Tensor | None = None
    ) -> None:
        """One update of `parameters` and `state`, in place. Gradients: float32, laid out like the parameters."""
        self.count(state)
        self.update(state, parameters, gradients, lr)

    def count(self, state: AdamState) -> None:
        """The first half of a step: count it, in place."""
        torch._foreach_add_(state.steps, 1)

    def update(
        self, state: AdamState, parameters: list[Tensor], gradients: list[Tensor], lr: float | Tensor | None = None
    ) -> None:
        """The second half: moments and parameters, in place, at the step that was counted."""
        torch._fused_adam_(
            parameters,
            gradients,
            state.first,
            state.second,
            [],
            state.steps,
            amsgrad=False,
            beta1=self.beta1,
            beta2=self.beta2,
            lr=self.lr if lr is None else lr,
            weight_decay=self.weight_decay,
            eps=self.eps,
            maximize=False,
        )


class BaseRate(Settings):
    """How the learning rate goes over a run: a factor on `lr`."""

    @abstractmethod
    def factor(self, done: float, epochs: int) -> float:
        """The factor after `done` of `epochs` epochs (fractions of an epoch count)."""


class Constant(BaseRate):
    """The rate stays."""

    kind: Literal["constant"] = "constant"

    def factor(self, done: float, epochs: int) -> float:
        return 1.0


class CoolDown(BaseRate):
    """PFF's cool-down: after half the epochs 2·(E−e)/E, e counted from 1; the last epoch keeps the value before it."""

    kind: Literal["cool-down"] = "cool-down"

    def factor(self, done: float, epochs: int) -> float:
        epoch = min(int(done) + 1, max(epochs - 1, 1))
        return min(1.0, 2 * (epochs - epoch) / epochs) if epochs > 1 else 1.0


class Cosine(BaseRate):
    """Half a cosine from 1 to 0, after a linear warm-up."""

    kind: Literal["cosine"] = "cosine"
    warmup: float = Field(default=0.0, ge=0)
    """Epochs over which the rate rises from 0."""

    def factor(self, done: float, epochs: int) -> float:
        if done < self.warmup:
            return done / self.warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - self.warmup) / max(epochs - self.warmup, 1e-9))))


Rate = Annotated[Constant | CoolDown | Cosine, Field(discriminator="kind")]
