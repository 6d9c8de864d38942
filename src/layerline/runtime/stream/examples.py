"""The training examples of a stream, minibatch by minibatch: images with their labels, or windows of a text.

Any minibatch of any epoch can be made again: order, shifts and the places where windows begin are functions of the seed
and the epoch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from layerline.data.dataset import Examples
from layerline.data.text import window_count, windows
from layerline.data.text_set import TextSet
from layerline.runtime.seeding import generator
from layerline.runtime.training_set import TrainingSet
from layerline.stream_run import StreamRun


class StreamExamples(ABC):
    """What a stream trains on."""

    @abstractmethod
    def __len__(self) -> int:
        """Examples in an epoch."""

    @abstractmethod
    def order(self, epoch: int) -> Tensor:
        """The order of the examples in an epoch, [n] on the device."""

    @abstractmethod
    def take(self, indices_B: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Raw inputs and labels of a minibatch."""

    @abstractmethod
    def labels(self, indices_B: Tensor, epoch: int) -> Tensor:
        """Its labels alone; of a set without inputs, too."""


class Pictures(StreamExamples):
    """Images (or other features), augmented anew every epoch."""

    def __init__(self, examples: Examples, run: StreamRun, device: torch.device) -> None:
        self._set = TrainingSet(examples, run.augment, run.seed, device)
        self._augmentation: tuple[int, Tensor | None] = (-1, None)

    def __len__(self) -> int:
        return len(self._set)

    def order(self, epoch: int) -> Tensor:
        return self._set.order(epoch)

    def take(self, indices_B: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        if self._augmentation[0] != epoch:
            self._augmentation = epoch, self._set.augmentation(epoch)
        return self._set.images(indices_B, self._augmentation[1]), self.labels(indices_B, epoch)

    def labels(self, indices_B: Tensor, epoch: int) -> Tensor:
        return self._set.labels[indices_B]


class TextWindows(StreamExamples):
    """Windows side by side, from another place every epoch: nearly every token is a label once an epoch."""

    def __init__(self, data: TextSet, run: StreamRun, device: torch.device) -> None:
        self._tokens, self._context = data.train.to(device), data.context
        self._seed, self._device = run.seed, device
        self._count = data.windows

    def __len__(self) -> int:
        return self._count

    def order(self, epoch: int) -> Tensor:
        return torch.randperm(self._count, generator=generator(self._seed, "order", epoch)).to(self._device)

    def take(self, indices_B: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        room = window_count(self._tokens, self._context) - (self._count - 1) * self._context
        first = torch.randint(0, room, (1,), generator=generator(self._seed, "begin", epoch)).item()
        return windows(self._tokens, indices_B * self._context + int(first), self._context)

    def labels(self, indices_B: Tensor, epoch: int) -> Tensor:
        return self.take(indices_B, epoch)[1]


def stream_examples(data: Examples | TextSet, run: StreamRun, device: torch.device) -> StreamExamples:
    """The examples of a training set."""
    return TextWindows(data, run, device) if isinstance(data, TextSet) else Pictures(data, run, device)
