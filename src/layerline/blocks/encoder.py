"""From raw examples to what the first block sees: standardise, write the label, normalise.

The encoder is frozen with the model: the same numbers prepare an example in training, evaluation and prediction.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from layerline.blocks.normaliser import BaseNormaliser, row_norms
from layerline.data.labels import LabelInput, LabelledViews
from layerline.errors import UsageError


@lru_cache(maxsize=64)
def _constant(values: tuple[float, ...], shape: tuple[int, ...], device: torch.device) -> Tensor:
    """A tensor made once, not in every minibatch. Not to be written to."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device).view(shape)


@dataclass(frozen=True)
class Blank:
    """Standardised images with the label's features empty: what all views of them share."""

    image_BF: Tensor
    """Float32."""
    squares_B: Tensor
    """Squared L2 norms, the label not counted."""


@dataclass(frozen=True)
class Encoder:
    """Prepares raw examples [B, *shape] for a network; `images`: they are uint8, else floats.

    `mean`, `std`: one number each, or one per channel. `labels` is None where no label goes into the input.
    `flat`: the first block wants vectors, else [B, *shape].
    """

    images: bool
    shape: tuple[int, ...]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    normaliser: BaseNormaliser
    labels: LabelInput | None
    flat: bool
    dtype: torch.dtype

    def __post_init__(self) -> None:
        if self.labels is not None:
            self.labels.width(self.features, self.classes)
            if self.labels.position == "append" and not self.flat:
                raise UsageError(
                    "a label can be appended to a vector, not to an image that stays an image",
                    hint="write it over the first features: --labels.position first",
                )

    @property
    def features(self) -> int:
        """Numbers in one example."""
        return torch.Size(self.shape).numel()

    @property
    def input_shape(self) -> tuple[int, ...]:
        """What the first block sees of one row."""
        if not self.flat:
            return self.shape
        return (self.features if self.labels is None else self.labels.width(self.features, self.classes),)

    def standardise(self, raw: Tensor) -> Tensor:
        """Float32 [B, F], flat; a new tensor."""
        per_channel = (-1, *[1] * (len(self.shape) - 1)) if len(self.mean) > 1 else (-1,)
        mean = _constant(self.mean, per_channel, raw.device)
        std = _constant(self.std, per_channel, raw.device)
        return torch.sub(raw, mean).float().div_(std).flatten(1)

    def plain(self, raw: Tensor) -> Tensor:
        """Without a label. [B, *input_shape]"""
        return self.normaliser(self.standardise(raw)).to(self.dtype).view(-1, *self.input_shape)

    def prepare(self, raw: Tensor) -> Tensor | Blank:
        """What `neutral` and `labelled` of the same examples share, to hand to both in place of `raw`."""
        if self.labels is None:
            return raw
        image_BF = self.labels.blank(self.standardise(raw), self.classes)
        return Blank(image_BF, row_norms(image_BF).square_())

    def labelled(self, raw: Tensor | Blank, labels: list[Tensor]) -> LabelledViews:
        """One view per entry of `labels` ([B] class numbers each), sharing the image."""
        assert self.labels is not None
        label_RC = self.labels.one_hot(torch.cat(labels), self.classes)
        return self._views(raw, label_RC, self.labels.strength**2)

    def every_label(self, raw: Tensor) -> LabelledViews:
        """C views, one for each class, in order."""
        return self.labelled(raw, [raw.new_full((len(raw),), c, dtype=torch.int64) for c in range(self.classes)])

    def neutral(self, raw: Tensor | Blank) -> LabelledViews | Tensor:
        """The view that says nothing about the label; the plain input where labels are not written in."""
        image = self.prepare(raw) if isinstance(raw, Tensor) else raw
        if isinstance(image, Tensor):
            return self.plain(image)
        assert self.labels is not None
        label_BC = self.labels.neutral(len(image.squares_B), self.classes, image.squares_B.device)
        return self._views(image, label_BC, self.labels.strength**2 / self.classes)

    def _views(self, raw: Tensor | Blank, label_RC: Tensor, label_energy: float) -> LabelledViews:
        assert self.labels is not None
        image = self.prepare(raw) if isinstance(raw, Tensor) else raw
        assert isinstance(image, Blank)
        norms_B = (image.squares_B + label_energy).sqrt_()
        scale_B1 = self.normaliser.scale(norms_B, image.image_BF.shape[1])[:, None]
        views = label_RC.view(-1, *scale_B1.shape[:1], self.classes) * scale_B1
        return LabelledViews(
            image_BF=(image.image_BF * scale_B1).to(self.dtype),
            label_RC=views.flatten(0, 1).to(self.dtype),
            columns=self.labels.columns(self.features, self.classes),
            shape=self.input_shape,
        )
