"""What of a trained block leaves its node, where that is not all of it.

    received ─► train ─► release ─► the node's own copy, the slot on disk, messages

The node goes on from what the others get, like everybody. Moments stay as training left them: they stay at home.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from layerline.runtime.node import Node
from layerline.transport.codecs import EXACT

Release = Callable[[dict[str, Tensor], dict[str, Tensor]], dict[str, Tensor]]
"""From a block as it was received, and as it was trained, to the block that may leave the node."""


@contextmanager
def released(node: Node, stage: int, release: Release | None) -> Iterator[None]:
    """While a stage of a node is trained; afterwards it is what may leave. `release` None: all of it."""
    if release is None:
        yield
        return
    received = {name: tensor.clone() for name, tensor in _floating(node, stage).items()}
    yield
    leaves = release(received, _floating(node, stage))
    node.load_block(stage, [node.learner_tensors(stage) | leaves], moments=False)


def _floating(node: Node, stage: int) -> dict[str, Tensor]:
    """What training changes in a block, without its moments."""
    tensors = node.learner_tensors(stage)
    return {name: t for name, t in tensors.items() if t.is_floating_point() and not name.startswith(EXACT)}
