"""The optimizers of networks that are trained by gradients from further away: SGD with momentum, and AdamW.

One per block, its head included (DGL, arXiv 1901.08164; interlocking backprop, arXiv 2010.04116), with the state in the
open as in `optimizer`: `init` makes it, `step` updates it and the parameters in place. Weight decay spares vectors
(biases, the scales of norms) in AdamW, and takes everything in SGD, as is customary with each.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from layerline.objectives.optimizer import AdamState
from layerline.settings import Settings


@dataclass
class Velocities:
    """The momentum buffer of each parameter; updated in place."""

    velocity: list[Tensor]

    def tensors(self) -> dict[str, Tensor]:
        """Everything to save, by name."""
        return {f"velocity.{i}": tensor for i, tensor in enumerate(self.velocity)}


class BaseDescent(Settings):
    """Parameters that follow their gradients."""

    moments: ClassVar[int]
    """Numbers that are kept for every parameter."""
    lr: float = Field(gt=0)
    """Learning rate, before the schedule's factor."""

    @abstractmethod
    def init(self, parameters: Sequence[Tensor]) -> Velocities | AdamState:
        """A fresh state."""

    @abstractmethod
    def step(self, state: Velocities | AdamState, parameters: list[Tensor], gradients: list[Tensor], lr: float) -> None:
        """One update of `parameters` and `state`, in place. Gradients: float32, laid out like the parameters."""


class Sgd(BaseDescent):
    """Stochastic gradient descent with momentum and L2 penalty."""

    moments: ClassVar[int] = 1
    kind: Literal["sgd"] = "sgd"
    lr: float = Field(default=0.1, gt=0)
    """Learning rate; DGL on CIFAR-10: 0.1."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Share of the last step that is kept; DGL: 0.9."""
    nesterov: bool = True
    """Look ahead along the momentum (Sutskever et al. 2013); DGL: no."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """L2 penalty added to every gradient; DGL: 0.0005."""

    def init(self, parameters: Sequence[Tensor]) -> Velocities:
        return Velocities([torch.zeros_like(p) for p in parameters])

    def step(self, state: Velocities | AdamState, parameters: list[Tensor], gradients: list[Tensor], lr: float) -> None:
        assert isinstance(state, Velocities)
        if not parameters:
            return
        torch._fused_sgd_(
            parameters,
            gradients,
            state.velocity if self.momentum else [],  # PyTorch refuses buffers that it would not use
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            lr=lr,
            dampening=0.0,
            nesterov=self.nesterov and self.momentum > 0,
            maximize=False,
            is_first_step=False,  # velocities start at 0, so the first step is like any other
        )


class AdamW(BaseDescent):
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101), for Transformers."""

    moments: ClassVar[int] = 2
    kind: Literal["adamw"] = "adamw"
    lr: float = Field(default=0.001, gt=0)
    """Learning rate."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the first moment."""
    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Decay of the second moment; long memories suit neither small sets nor small minibatches."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the second moment."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Share of a matrix, times the learning rate, that goes in every step."""

    def init(self, parameters: Sequence[Tensor]) -> AdamState:
        return AdamState.fresh(parameters)

    def step(self, state: Velocities | AdamState, parameters: list[Tensor], gradients: list[Tensor], lr: float) -> None:
        assert isinstance(state, AdamState)
        if not parameters:
            return
        torch._foreach_add_(state.steps, 1)
        for decays in (True, False):
            chosen = [i for i, p in enumerate(parameters) if (p.ndim > 1) == decays]
            if chosen:
                torch._fused_adamw_(
                    [parameters[i] for i in chosen],
                    [gradients[i] for i in chosen],
                    [state.first[i] for i in chosen],
                    [state.second[i] for i in chosen],
                    [],
                    [state.steps[i] for i in chosen],
                    amsgrad=False,
                    beta1=self.beta1,
                    beta2=self.beta2,
                    lr=lr,
                    weight_decay=self.weight_decay if decays else 0.0,
                    eps=self.eps,
                    maximize=False,
                )


Descent = Annotated[Sgd | AdamW, Field(discriminator="kind")]
