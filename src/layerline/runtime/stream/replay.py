"""The replay buffer of a block that runs freely: the minibatches themselves, by the rule of `schedules.replay`.

It holds parcels as they arrived, so with codes at the boundary it holds indices. Everything to go on from is tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layerline.schedules.replay import Place, Ring
from layerline.transport.boundary import Parcel


class ReplayBuffer:
    """The last `size` minibatches of the block below, each a parcel with its labels."""

    def __init__(self, size: int, max_reuse: int | None = None) -> None:
        self._ring = Ring(size, max_reuse)
        self._parcels: dict[int, Parcel] = {}

    def put(self, step: int, parcel: Parcel) -> None:
        """The block below made `step`: the oldest goes, if there is no room."""
        gone = self._ring.insert(step)
        if gone is not None:
            del self._parcels[gone]
        self._parcels[step] = parcel

    def take(self) -> tuple[int, Parcel] | None:
        """A minibatch to learn from, counted as used; None where the block has to wait."""
        step = self._ring.take()
        return None if step is None else (step, self._parcels[step])

    @property
    def parcels(self) -> list[Parcel]:
        """All it holds, the oldest first."""
        return [self._parcels[place.step] for place in self._ring.places]

    def tensors(self) -> dict[str, Tensor]:
        """Everything a checkpoint needs, by name: `ring` is int64 [held, 2], step and number of the next use."""
        ring = torch.tensor([(place.step, place.uses) for place in self._ring.places], dtype=torch.int64)
        named = {"ring": ring.view(-1, 2)}
        for step, parcel in self._parcels.items():
            named |= {f"{step}.{name}": tensor for name, tensor in parcel.items()}
        return named

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over a state. RuntimeError if it is none of a buffer of this size."""
        places = [Place(step, uses) for step, uses in tensors["ring"].tolist()]
        held: dict[int, Parcel] = {place.step: {} for place in places}
        for name, tensor in tensors.items():
            step, dot, rest = name.partition(".")
            if dot:
                if not step.isdigit() or int(step) not in held:
                    raise RuntimeError(f"{name} belongs to no minibatch in the buffer")
                held[int(step)][rest] = tensor
        if len(places) > self._ring.size or not all(held.values()):
            raise RuntimeError(f"{len(held)} minibatches for a buffer of {self._ring.size}")
        self._ring.places, self._parcels = places, held
