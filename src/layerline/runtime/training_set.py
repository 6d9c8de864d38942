"""The training set as the blocks see it: in memory, raw, shifted and flipped on the way out.

Sets stay as they were read (uint8 for images). Shifts need no copies: the images lie in a padded store, and a shifted
image is a window of it. Every draw is a function of the epoch, so any minibatch can be made again.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from layerline.base_run import Augment
from layerline.data.dataset import Examples
from layerline.errors import UsageError
from layerline.runtime.seeding import generator


class TrainingSet:
    """Examples on the compute device, with minibatch order and augmentation.

    Of a set whose inputs have no numbers (device "meta"), order and labels only.
    """

    def __init__(self, examples: Examples, augment: Augment, seed: int, device: torch.device) -> None:
        self.labels = examples.labels.to(device)
        self._seed, self._augment, self._device = seed, augment, device
        inputs = examples.inputs
        self.shape = tuple(inputs.shape[1:])
        if (augment.shift or augment.flip) and inputs.ndim != 4:
            raise UsageError("only images can be shifted or flipped", hint="leave out --shift and --flip")
        if augment.shift >= min(inputs.shape[-2:]):
            raise UsageError(f"a shift of {augment.shift} pixels can push an image of {self.shape} out of sight")
        if augment.flip:
            inputs = torch.cat((inputs, inputs.flip(-1)))
        if augment.shift:
            inputs = _padded(inputs, augment)
        self._store = inputs if inputs.is_meta else inputs.contiguous().to(device)
        self._windows = self._all_windows()

    def __len__(self) -> int:
        return len(self.labels)

    def order(self, epoch: int) -> Tensor:
        """The order of the examples in an epoch, [n] on the device."""
        draw = generator(self._seed, "order", epoch)
        return torch.randperm(len(self), generator=draw).to(self._device)

    def images(self, indices_B: Tensor, augmentation_n: Tensor | None) -> Tensor:
        """Raw examples [B, *shape], augmented as drawn for the epoch (None: as they are)."""
        if augmentation_n is None:
            return self._windows[self._plain(indices_B)] if self._augment.shift else self._store[indices_B]
        return torch.index_select(self._windows, 0, augmentation_n[indices_B])

    def augmentation(self, epoch: int) -> Tensor | None:
        """Which window of the store stands for each example in this epoch, [n]; None without augmentation."""
        shift, count = self._augment.shift, len(self)
        if not shift and not self._augment.flip:
            return None
        draw = generator(self._seed, "augment", epoch)
        example = torch.arange(count)
        if self._augment.flip:
            example = example + count * torch.randint(0, 2, (count,), generator=draw)
        down, right = torch.randint(0, 2 * shift + 1, (2, count), generator=draw)
        return self._window(example, down, right).to(self._device)

    def _plain(self, indices_B: Tensor) -> Tensor:
        return self._window(indices_B, self._augment.shift, self._augment.shift)

    def _window(self, example: Tensor, down: Tensor | int, right: Tensor | int) -> Tensor:
        if not self._augment.shift:
            return example
        channels, _, width = self._store.shape[1:]
        return example * (channels * self._store.shape[2] * width) + down * width + right

    def _all_windows(self) -> Tensor:
        """A view with one row per place an image can start at in the store; without shifts, the store itself."""
        if not self._augment.shift:
            return self._store
        channels, height, width = self._store.shape[1:]
        size = channels * height * width
        last = self._store.numel() - size + 2 * self._augment.shift * (width + 1)
        return self._store.as_strided((last + 1, *self.shape), (1, height * width, width, 1))


def _padded(inputs: Tensor, augment: Augment) -> Tensor:
    """Images with room for their shifts on every side. Black borders cost CIFAR-10 several points: they are the
    strongest edges in the picture."""
    if augment.fill == "black":
        return functional.pad(inputs, [augment.shift] * 4)
    # PyTorch mirrors floats only; a part at a time spares a float copy of the whole set.
    parts = [functional.pad(p.float(), [augment.shift] * 4, "reflect").to(p.dtype) for p in inputs.split(4096)]
    return torch.cat(parts)
