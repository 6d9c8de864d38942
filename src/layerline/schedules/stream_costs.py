"""What a stream's rows cost: seconds of a microbatch, and bytes, for each block; by a formula from its size.

forward                                 2 · examples · macs         at the arithmetic rate
backward by a loss, to the input        as much again               where the gradient goes on to the block below
backward by a loss, to the weights      as much again               where it is the loss that trains the block
own loss                                3 × the head's product
update                                  12 B a parameter, and 8 for at the memory rate, once a minibatch
                                        each moment kept: all float32, read and written, the gradient read
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from layerline.schedules.costs import Machine
from layerline.schedules.reach import Reach


@dataclass(frozen=True, kw_only=True)
class BlockSize:
    """A block, and its head where it has one, in numbers; of one example, where not said otherwise."""

    macs: int
    """Multiply-accumulates of a forward pass."""
    parameters: int
    """Trainable numbers, of the block."""
    output_bytes: int
    """Of what it hands on."""
    kept_bytes: int
    """Of what a forward pass leaves for the backward pass: its input, and every layer's output."""
    head_macs: int = 0
    head_parameters: int = 0


@dataclass(frozen=True, kw_only=True)
class StreamCosts:
    """Seconds on a node of speed 1 and bytes, per block; of one microbatch, updates of a minibatch."""

    forward: tuple[float, ...]
    to_input: tuple[float, ...]
    """A loss's gradient from the block's output to its input."""
    to_weights: tuple[float, ...]
    """A loss's gradient from the block's output to its weights."""
    own_loss: tuple[float, ...]
    """The loss at the block's output, with its head, down to that output; 0 where there is none."""
    update: tuple[float, ...]
    outputs: tuple[int, ...]
    """Bytes of its outputs, and of a gradient there."""
    kept: tuple[int, ...]
    """Bytes that a forward leaves for its backward."""
    weights: tuple[int, ...]
    """Bytes of block and head; a gradient has as many."""
    moments: tuple[int, ...]
    """Bytes of the optimizer's."""
    followed: tuple[int, ...] = ()
    """Bytes of the weights that heads of other blocks follow; left out: none do."""

    def backward(self, reach: Reach, block: int, loss: int) -> float:
        """Seconds of one loss's gradient through a block."""
        own = self.own_loss[block] if loss == block else 0.0
        below = self.to_input[block] if loss in reach.crossing(block) else 0.0
        return own + below + (self.to_weights[block] if loss == reach.teacher(block) else 0.0)

    def of_step(self, reach: Reach, block: int, microbatches: int) -> float:
        """Seconds that a minibatch takes in a block."""
        back = sum(self.backward(reach, block, loss) for loss in reach.at(block))
        return microbatches * (self.forward[block] + back) + self.update[block]


def estimate_stream(
    sizes: Sequence[BlockSize], examples: float, machine: Machine, *, moments: int, reach: Reach
) -> StreamCosts:
    """The formula above for microbatches of so many examples. `moments`: numbers an optimizer keeps a parameter."""
    product = tuple(2.0 * examples * size.macs / machine.arithmetic for size in sizes)
    parameters = [size.parameters + size.head_parameters for size in sizes]
    heads = [6.0 * examples * size.head_macs / machine.arithmetic for size in sizes]
    return StreamCosts(
        forward=product,
        to_input=product,
        to_weights=product,
        own_loss=tuple(head * reach.has_loss(block) for block, head in enumerate(heads)),
        update=tuple(count * (12 + 8 * moments) / machine.memory for count in parameters),
        outputs=tuple(round(examples * size.output_bytes) for size in sizes),
        kept=tuple(round(examples * size.kept_bytes) for size in sizes),
        weights=tuple(4 * count for count in parameters),
        moments=tuple(4 * moments * count for count in parameters),
    )
