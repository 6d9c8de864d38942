"""What leaves a participant, through Flower's mods: clipped, with or without noise.

    worker   received ─► train ─► mod ─► the node's own copy, the slot on disk, messages

Problem: Flower's mods work on a message that brings the global model and takes back the client's, as NumPy arrays; our
messages carry results of several rows, with checksums, in whatever form the codec gave them. Solution: for every slot,
the mod is given two messages that never travel. What it makes of the trained block takes the block's place everywhere,
the node's own model included, before anybody can ask for it. So a slot has one draw of noise: it is on disk before it
is sent, and sent again as it was.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.app.metadata import Metadata
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
from flwr.clientapp.typing import Mod
from flwr.supercore.differential_privacy import KEY_CLIPPING_NORM
from torch import Tensor

from layerline.errors import LayerlineError
from layerline.runtime.leaving import Release
from layerline.transport.privacy import Clipped, LocalDp, Open

_NUDGE = "never the same"
"""A number of its own that always changes a little: the mods divide by the norm of the update."""


def release(privacy: Open | Clipped | LocalDp) -> Release | None:
    """What makes of a trained block what may leave; None: all may."""
    match privacy:
        case Open():
            return None
        case Clipped():
            return _Modified(fixedclipping_mod, privacy.clipping)
        case LocalDp():
            return _Modified(
                LocalDpMod(privacy.clipping, privacy.apart, privacy.epsilon, privacy.delta), privacy.clipping
            )


class _Modified:
    """A mod on a block."""

    def __init__(self, mod: Mod, clipping: float) -> None:
        self._mod, self._clipping = mod, clipping

    def __call__(self, received: dict[str, Tensor], trained: dict[str, Tensor]) -> dict[str, Tensor]:
        """The trained block as it may leave: floating-point tensors by name.

        LayerlineError where the mod fails, and where an update has no norm: Flower's clipping would then let it pass.
        """
        if not all(bool(tensor.isfinite().all()) for tensor in (*received.values(), *trained.values())):
            raise LayerlineError(
                "a block has numbers that are not finite, and what changed in it cannot be clipped",
                hint="choose a smaller learning rate: --lr",
            )
        np.random.seed()  # the mods draw from NumPy's own generator: from the system's entropy, whoever has seeded it
        came, goes = _message(received, self._clipping, 0.0), _message(trained, self._clipping, 1e-100)
        message = self._mod(came, Context(0, 0, {}, RecordDict(), {}), lambda message, context: goes)
        if message.has_error():
            raise LayerlineError(f"Flower's mod failed: {message.error.reason}")
        (record,) = message.content.array_records.values()
        found = {name: torch.from_numpy(np.array(array.numpy())) for name, array in record.items() if name != _NUDGE}
        return {name: tensor.to(trained[name].dtype) for name, tensor in found.items()}


def _message(tensors: dict[str, Tensor], clipping: float, nudge: float) -> Message:
    """As the mods want it. In double precision, so that norms are exact and the smallest change has one."""
    arrays = {name: tensor.detach().cpu().double().numpy() for name, tensor in tensors.items()}
    record = ArrayRecord({name: Array(array) for name, array in (arrays | {_NUDGE: np.array([nudge])}).items()})
    content = RecordDict({"block": record, "settings": ConfigRecord({KEY_CLIPPING_NORM: clipping})})
    make: Any = Message  # the public ways to make one ask who this process is, which it need not know here
    made: Message = make(content, metadata=Metadata(0, "", 0, 0, "", "", 0.0, math.inf, "train"))
    return made
