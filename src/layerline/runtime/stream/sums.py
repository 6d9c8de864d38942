"""The numbers of a block's epoch, added up microbatch by microbatch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from layerline.events import Row


class Sums:
    """Of block `block`: losses and right answers since its epoch began, on `device`."""

    def __init__(self, block: int, device: torch.device) -> None:
        self.block = block
        self._loss, self._right = (torch.zeros((), dtype=torch.float64, device=device) for _ in range(2))

    def add(self, loss: Tensor, right: Tensor, labels: Tensor) -> None:
        """A microbatch's mean loss and number of right answers; labels [B], of tokens [B, T]."""
        self._loss += loss * len(labels)
        self._right += right * len(labels) / labels.numel()

    def row(self, epoch: int, examples: int) -> Row:
        """The numbers of the epoch, of so many examples; the next one begins."""
        loss, right = (total.item() / examples for total in (self._loss, self._right))
        for total in self.tensors().values():
            total.zero_()
        return Row(epoch=epoch, block=str(self.block + 1), loss=loss, accuracy=right)

    def tensors(self) -> dict[str, Tensor]:
        """The sums, float64 [], by name."""
        return {"losses": self._loss, "right": self._right}


def by_name(every: Mapping[int, Sums]) -> dict[str, Tensor]:
    """Those of some blocks, each under its block's number."""
    return {f"{block}.{name}": total for block, sums in every.items() for name, total in sums.tensors().items()}
