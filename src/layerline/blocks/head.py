"""The linear softmax head: of a block (local cross-entropy) or of the whole network (softmax readout).

Closed form, B images, logits = M x + m:

1. D = (softmax(logits) − onehot(y)) / B        [B, C]
2. dM = Dᵀ x,  dm = Σ D
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional


class LinearHead(nn.Module):
    """logits = x Mᵀ + m, multiplied in x's precision and returned in float32. [B, N] -> [B, C]; starts at zero."""

    def __init__(self, units: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(classes, units))
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, x_BN: Tensor) -> Tensor:
        return functional.linear(x_BN, self.weight.to(x_BN.dtype)).float() + self.bias

    def gradients(self, x_BN: Tensor, slope_BC: Tensor) -> list[Tensor]:
        """Gradients of weight and bias, float32, from the slope at the logits (2)."""
        return [(slope_BC.to(x_BN.dtype).t() @ x_BN).float(), slope_BC.sum(0)]


def cross_entropy_slope(logits_BC: Tensor, labels_B: Tensor) -> Tensor:
    """d mean cross-entropy / d logits, float32 [B, C] (1)."""
    slope = torch.softmax(logits_BC, 1)
    slope.scatter_add_(1, labels_B[:, None], slope.new_full((len(labels_B), 1), -1.0))
    return slope.div_(len(labels_B))


def accuracy_and_loss(logits: Iterable[Tensor], labels: Iterable[Tensor]) -> dict[str, float]:
    """An epoch's numbers from the logits and labels of its minibatches."""
    logits_NC, labels_N = torch.cat(list(logits)), torch.cat(list(labels))
    return {
        "loss": functional.cross_entropy(logits_NC, labels_N).item(),
        "accuracy": (logits_NC.argmax(1) == labels_N).float().mean().item(),
    }
