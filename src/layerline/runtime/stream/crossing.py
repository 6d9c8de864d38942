"""Both ends of every boundary: what a block puts out, and what the next one gets of it.

Where the two blocks are on different nodes, each of these makes the crossing and uses its own end.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from layerline.runtime.model import PRECISIONS
from layerline.runtime.seeding import generator
from layerline.runtime.stream.model import StreamModel
from layerline.transport.boundary import Parcel, Plain, QuantisingReceiver, QuantisingSender, Receiver, Sender


class Crossing:
    """From block `index` to the next."""

    def __init__(self, index: int, sender: Sender, receiver: Receiver, layout: torch.memory_format) -> None:
        self.index, self.sender, self.receiver = index, sender, receiver
        self._layout = layout

    def send(self, h: Tensor) -> Parcel:
        """Outputs, coded and arrived, as they wait for the next block."""
        return self.receiver.accept(self.sender.encode(h))

    def open(self, parcel: Parcel) -> Tensor:
        """What the next block learns from; in the layout that its convolutions are fast in."""
        h = self.receiver.decode(parcel)
        return h.contiguous(memory_format=self._layout) if h.ndim == 4 else h

    def versions(self) -> dict[str, Tensor]:
        """The versions of shared codes that are still needed, by number."""
        held = self.receiver.versions if isinstance(self.receiver, QuantisingReceiver) else {}
        return {str(version): codes for version, codes in held.items()}

    def resume(self, older: dict[str, Tensor]) -> None:
        """After the sender has got its state back: the versions that are still needed, and the latest."""
        if isinstance(self.sender, QuantisingSender) and isinstance(self.receiver, QuantisingReceiver):
            book = self.sender.book
            self.receiver.versions = {int(version): codes for version, codes in older.items()}
            if book.version:
                self.receiver.versions[int(book.version)] = book.codes_GKD.clone()

    def keep(self, parcels: Iterable[Parcel]) -> None:
        """Nothing but these, and what comes, will be opened from now on."""
        self.receiver.keep(parcels)


def crossings(model: StreamModel, device: torch.device) -> list[Crossing]:
    """One for every block but the last."""
    run, made = model.run, []
    for index in range(len(model.blocks) - 1):

        def draw(version: int, index: int = index) -> torch.Generator:
            return generator(run.seed, "codes", index, version)

        coding = model.coding(index)
        codes = None if coding is None else coding.codes
        ends = run.boundary.ends(codes, PRECISIONS[run.precision], draw, device)
        made.append(Crossing(index, *ends, layout=model.layout))
    return made


def coded(model: StreamModel, device: torch.device) -> list[Crossing]:
    """The same where outputs are coded; none where they cross as they are, and neither end has anything to keep."""
    return [] if isinstance(model.run.boundary, Plain) else crossings(model, device)
