"""Linear + ReLU, the block of the Forward-Forward papers, with a path for views that share their image.

h = relu(W x + b). For the V views of an image only the label's features differ, so W x = W x_image + W_label label:
the first product is computed once per image, not once per view.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from layerline.data.labels import LabelledViews

Init = Literal["torch", "fan-in"]


class LinearReLU(nn.Module):
    """relu(x Wᵀ + b). Input [R, in] or `LabelledViews`, output [R, out].

    `init`: "torch" is uniform ±1/sqrt(in) for weight and bias (the PFF authors' default Linear); "fan-in" is
    N(0, 1/in) and zero bias (Hinton's script).
    """

    def __init__(self, inputs: int, outputs: int, init: Init = "torch") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs))
        bound = inputs**-0.5
        with torch.no_grad():
            if init == "torch":
                self.weight.uniform_(-bound, bound)
                self.bias.uniform_(-bound, bound)
            else:
                self.weight.normal_(0, bound)
                self.bias.zero_()

    def forward(self, x: Tensor | LabelledViews) -> Tensor:
        if isinstance(x, Tensor):
            return functional.linear(x, self.weight, self.bias).relu_()
        image = functional.linear(x.image_BF, self.weight, self.bias)
        label = functional.linear(x.label_RC, self.weight[:, x.columns])
        return label.view(x.views, *image.shape).add_(image).relu_().flatten(0, 1)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}"
