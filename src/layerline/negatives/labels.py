"""Policies that pick the wrong label of a negative view.

A policy is a pure function (scores, labels, generator) → wrong labels; when it is asked is part of the policy.
Shapes: n images, C classes; labels and results int64 [n]; scores [n, C], higher is more likely.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from layerline.settings import Settings

When = Literal["run", "chapter", "minibatch"]


def random_wrong(labels_n: Tensor, classes: int, generator: Generator) -> Tensor:
    """Any wrong label, each as likely."""
    offset = torch.randint(1, classes, labels_n.shape, generator=generator)
    return (labels_n + offset.to(labels_n.device)) % classes


def without_right(scores_nC: Tensor, labels_n: Tensor) -> Tensor:
    """Scores with the right label's set to −∞, a copy."""
    return scores_nC.float().scatter(1, labels_n[:, None], float("-inf"))


class LabelNegatives(Settings):
    """A wrong label for every image."""

    needs_scores: ClassVar[bool] = False

    def when(self, order: str) -> When:
        """How often labels are drawn, by training order."""
        return "chapter"

    @abstractmethod
    def draw(self, labels_n: Tensor, classes: int, scores_nC: Tensor | None, generator: Generator) -> Tensor:
        """The wrong labels. Without scores (nothing is trained yet) every policy draws at random."""


class Fixed(LabelNegatives):
    """A random wrong label per image, drawn once (PFF: Fixed)."""

    kind: Literal["fixed"] = "fixed"

    def when(self, order: str) -> When:
        return "run"

    def draw(self, labels_n: Tensor, classes: int, scores_nC: Tensor | None, generator: Generator) -> Tensor:
        return random_wrong(labels_n, classes, generator)


class Random(LabelNegatives):
    """A random wrong label per image, redrawn every chapter (PFF: Random)."""

    kind: Literal["random"] = "random"

    def draw(self, labels_n: Tensor, classes: int, scores_nC: Tensor | None, generator: Generator) -> Tensor:
        return random_wrong(labels_n, classes, generator)


class Adaptive(LabelNegatives):
    """The wrong label the network finds most likely, once a chapter (PFF: Adaptive).

    Judged by the softmax head where there is one, else by goodness.
    """

    kind: Literal["adaptive"] = "adaptive"
    needs_scores: ClassVar[bool] = True

    def draw(self, labels_n: Tensor, classes: int, scores_nC: Tensor | None, generator: Generator) -> Tensor:
        if scores_nC is None:
            return random_wrong(labels_n, classes, generator)
        return without_right(scores_nC, labels_n).argmax(1)


class Sampled(LabelNegatives):
    """A wrong label drawn from the network's softmax over the wrong labels.

    Every minibatch in simultaneous training, from the head (Hinton's script); once a chapter in chapter training.
    """

    kind: Literal["sampled"] = "sampled"
    needs_scores: ClassVar[bool] = True
    judge: Literal["readout", "first-block"] = "readout"
    """Whose softmax: the readout's (Hinton: the head, on the neutral pass through all blocks), or that of a head of its
    own on the first block's neutral activity, which saves the pass through the others."""
    temperature: float = Field(default=1.0, gt=0)
    """What the scores are divided by (Hinton: 1). With more, less likely wrong labels are drawn more often, too; a
    judge that has become sure otherwise asks for the same few."""

    def when(self, order: str) -> When:
        return "minibatch" if order == "simultaneous" else "chapter"

    def draw(self, labels_n: Tensor, classes: int, scores_nC: Tensor | None, generator: Generator) -> Tensor:
        if scores_nC is None:
            return random_wrong(labels_n, classes, generator)
        # Gumbel-max: the argmax of score + noise is a draw from the softmax, and needs no normalisation.
        uniform = torch.rand(scores_nC.shape, generator=generator).clamp_min_(1e-12).to(scores_nC.device)
        noise_nC = uniform.log().neg_().log_()
        return (without_right(scores_nC, labels_n).div_(self.temperature) - noise_nC).argmax(1)
