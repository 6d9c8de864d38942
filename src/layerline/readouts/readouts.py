"""Readouts: how trained blocks predict a class.

    goodness    run all C labels, sum the blocks' goodness, take the best                Hinton §3.3; PFF §3
    softmax     neutral label, one linear softmax on the concatenated activities         Hinton §3.3; PFF §4.3
    last-head   the last block's own softmax head                                        PFF v2 §4.4
    all-heads   the mean log-probability over the heads of all blocks                    PFF v2 §4.4 (combination: ours)

Goodness and softmax leave out the first block, as the papers do: its activity still shows the written label itself.

Shapes: B examples, C classes, N_l units of block l. All scores are float32 [B, C], higher is more likely.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from layerline.blocks.encoder import Encoder
from layerline.blocks.network import Network
from layerline.data.labels import LabelledViews
from layerline.settings import Settings


class Trained(Protocol):
    """What a readout needs of a model."""

    network: Network
    encoder: Encoder

    def goodness(self, norms_R: Tensor, units: int) -> Tensor:
        """Goodness of rows from their L2 norms."""

    @property
    def heads(self) -> Sequence[nn.Module]:
        """The local head of each block."""

    @property
    def readout_head(self) -> nn.Module:
        """The softmax readout's head."""


def features(network: Network, x: Tensor | LabelledViews, skip: int) -> Tensor:
    """Normalised activities of the blocks after the first `skip`, side by side. [B, ΣN_l]"""
    parts = [network.normaliser(h, norms_B).flatten(1) for h, norms_B in network.activities(x)]
    return torch.cat(parts[skip:], 1)


class BaseReadout(Settings):
    """A way to score the classes."""

    @abstractmethod
    def scores(self, model: Trained, raw: Tensor) -> Tensor:
        """Scores of raw examples [B, *shape]."""


class Goodness(BaseReadout):
    """The label whose view has the highest goodness."""

    kind: Literal["goodness"] = "goodness"
    skip: int = Field(default=1, ge=0)
    """Blocks left out at the start; the papers: 1."""

    def scores(self, model: Trained, raw: Tensor) -> Tensor:
        classes = model.encoder.classes
        total_R = torch.zeros(classes * len(raw), device=raw.device)
        walk = model.network.activities(model.encoder.every_label(raw))
        for index, (h, norms_R) in enumerate(walk):
            if index >= self.skip:
                total_R += model.goodness(norms_R, h[0].numel())
        return total_R.view(classes, -1).t()


class Softmax(BaseReadout):
    """A linear softmax on all later blocks, trained beside them without touching them."""

    kind: Literal["softmax"] = "softmax"
    skip: int = Field(default=1, ge=0)
    """Blocks left out at the start; the papers: 1."""

    def scores(self, model: Trained, raw: Tensor) -> Tensor:
        logits: Tensor = model.readout_head(features(model.network, model.encoder.neutral(raw), self.skip))
        return logits


def _log_probabilities(model: Trained, raw: Tensor) -> list[Tensor]:
    walk = model.network.activities(model.encoder.plain(raw))
    return [torch.log_softmax(head(h.flatten(1)), 1) for head, (h, _) in zip(model.heads, walk, strict=True)]


class LastHead(BaseReadout):
    """The last block's head."""

    kind: Literal["last-head"] = "last-head"

    def scores(self, model: Trained, raw: Tensor) -> Tensor:
        return _log_probabilities(model, raw)[-1]


class AllHeads(BaseReadout):
    """Every block's head, mean log-probability."""

    kind: Literal["all-heads"] = "all-heads"
    skip: int = Field(default=0, ge=0)
    """Blocks left out at the start; the paper names all heads."""

    def scores(self, model: Trained, raw: Tensor) -> Tensor:
        return torch.stack(_log_probabilities(model, raw)[self.skip :]).mean(0)


Readout = Annotated[Goodness | Softmax | LastHead | AllHeads, Field(discriminator="kind")]
