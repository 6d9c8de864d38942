"""Labels written into the input, and the views of an image that come of it.

Forward-Forward asks a network "do this image and this label belong together?", so the label has to be part of the
input: one-hot with a strength, over the first `C` features (Hinton, arXiv 2212.13345 §3.3; the PFF paper's text), over
the last `C` (the PFF authors' code), or appended (inputs with few features). The neutral label is `1/C` in each.

The positive view, the negative view and the `C` views of a prediction differ in those `C` features only.
`LabelledViews` keeps the image once and the label part beside it, so that a first linear block multiplies the image
once for all views.

Shapes: B images, V views, F input features (labels included), C classes. Rows of views: view-major, `[V*B, …]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from layerline.errors import UsageError
from layerline.settings import Settings


class LabelInput(Settings):
    """How a label is written into the input (Hinton §3.3; PFF §3)."""

    strength: float = Field(default=1.0, gt=0)
    """Value of the label's feature; Hinton and the paper: 1. Beside inputs of unit scale, 5 works far better."""
    position: Literal["first", "last", "append"] = "first"
    """Where: over the first C features (paper), over the last C (the authors' code), or appended after them."""

    def width(self, features: int, classes: int) -> int:
        """Features of the network's input, for `features` of the image."""
        if self.position == "append":
            return features + classes
        if features <= classes:
            raise UsageError(
                f"the input has {features} features, too few to write {classes} classes over",
                hint="append the label instead: --labels.position append",
            )
        return features

    def columns(self, features: int, classes: int) -> slice:
        """Which features of the network's input hold the label."""
        width = self.width(features, classes)
        return slice(0, classes) if self.position == "first" else slice(width - classes, width)

    def blank(self, images_BF: Tensor, classes: int) -> Tensor:
        """The images, flat, with the label's features set to 0. [B, F]; a new tensor."""
        if self.position == "append":
            return torch.nn.functional.pad(images_BF, (0, classes))
        blank = images_BF.clone()
        blank[:, self.columns(images_BF.shape[1], classes)] = 0
        return blank

    def one_hot(self, labels_R: Tensor, classes: int) -> Tensor:
        """The label part of a view, float32 [R, C]."""
        return torch.nn.functional.one_hot(labels_R, classes).float().mul_(self.strength)

    def neutral(self, rows: int, classes: int, device: torch.device) -> Tensor:
        """The label part that says nothing: `strength / C` everywhere. [rows, C]"""
        return torch.full((rows, classes), self.strength / classes, device=device)


@dataclass(frozen=True)
class LabelledViews:
    """V views of B images that differ in their label only, scaled as the first block wants them.

    `image_BF` has zeros in the label's features; `label_RC` (R = V·B rows, view-major) holds what stands there instead.
    """

    image_BF: Tensor
    label_RC: Tensor
    columns: slice
    shape: tuple[int, ...]
    """Of one row, as the first block wants it: (F,) or (channels, height, width)."""

    @property
    def views(self) -> int:
        return self.label_RC.shape[0] // self.image_BF.shape[0]

    def full(self) -> Tensor:
        """Every view written out, [V*B, *shape]; for blocks that cannot use the sharing."""
        rows = self.image_BF.repeat(self.views, 1)
        rows[:, self.columns] = self.label_RC
        return rows.view(-1, *self.shape)
