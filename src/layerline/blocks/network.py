"""A network: an ordered list of blocks, each fed the normalised output of the one before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from layerline.blocks.linear import Init, LinearReLU
from layerline.blocks.normaliser import BaseNormaliser, Normaliser, RmsNorm, row_norms
from layerline.data.labels import LabelledViews
from layerline.errors import UsageError
from layerline.settings import Settings


class Network(nn.Module):
    """Blocks and the normaliser between them.

    `units[l]`: outputs of block l per row. The input of the first block is normalised by the encoder.
    """

    def __init__(self, blocks: Sequence[nn.Module], normaliser: BaseNormaliser, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.normaliser = normaliser
        self.units = self._measure_units(input_shape)

    def _measure_units(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        units = []
        try:
            with predicting(self), torch.no_grad():
                for h, _ in self.activities(torch.zeros(1, *input_shape)):
                    units.append(h[0].numel())
        except Exception as error:  # modules of one's own may raise anything
            number = len(units) + 1
            raise UsageError(
                f"block {number} cannot take its input: {error}",
                hint=f"check the sizes of the blocks; the first is fed examples of shape {list(input_shape)}",
            ) from error
        return tuple(units)

    def activities(self, x: Tensor | LabelledViews) -> Iterator[tuple[Tensor, Tensor]]:
        """The output of every block and the L2 norms of its rows, in order."""
        for index, block in enumerate(self.blocks):
            h = apply(block, x)
            norms_R = row_norms(h)
            yield h, norms_R
            if index + 1 < len(self.blocks):
                x = self.normaliser(h, norms_R)

    def joined(self, input_shape: tuple[int, ...]) -> Network:
        """The same modules as one block, which a gradient can cross."""
        return Network([Joined(self)], self.normaliser, input_shape)


class Joined(nn.Module):
    """The blocks of a network, and the normaliser between them, as one block."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.blocks, self.normaliser = network.blocks, network.normaliser

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks[:-1]:
            x = self.normaliser(apply(block, x))
        return apply(self.blocks[-1], x)


@contextmanager
def predicting(module: nn.Module) -> Iterator[None]:
    """Evaluation mode (dropout off, batch statistics fixed) while nothing learns; then the mode it was in."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


def apply(block: nn.Module, x: Tensor | LabelledViews) -> Tensor:
    """A block on plain rows or on views that share their image (written out if the block cannot share)."""
    h: Tensor = block(x if isinstance(x, Tensor) or isinstance(block, LinearReLU) else x.full())
    return h


class Mlp(Settings):
    """Linear + ReLU blocks."""

    kind: Literal["mlp"] = "mlp"
    widths: tuple[int, ...] = Field(default=(2000, 2000, 2000, 2000), min_length=1)
    """Units of each block; the paper: 2000 four times."""
    init: Init = "torch"
    """"torch": uniform ±1/√in, bias too (PFF authors' code); "fan-in": N(0, 1/in), zero bias (Hinton's script)."""
    normaliser: Normaliser = RmsNorm()
    """Before every block, the first included: rms (Hinton), l2 (PFF authors' code) or none."""

    def build(self, input_shape: tuple[int, ...], own: Sequence[nn.Module] | None = None) -> Network:
        """A fresh network for rows of `input_shape`; drawn from torch's global generator."""
        if own is not None:
            raise UsageError("this run describes its network itself", hint="leave out network=")
        features = torch.Size(input_shape).numel()
        sizes = (features, *self.widths)
        blocks = [LinearReLU(i, o, self.init) for i, o in zip(sizes, self.widths, strict=False)]
        return Network(blocks, self.normaliser, input_shape)


class Own(Settings):
    """Modules that were handed in from Python; a run knows that they were, not what they are."""

    kind: Literal["own"] = "own"
    normaliser: Normaliser = RmsNorm()
    """Before every block, the first included: rms (Hinton), l2 (PFF authors' code) or none."""

    def build(self, input_shape: tuple[int, ...], own: Sequence[nn.Module] | None = None) -> Network:
        """The network of these modules, used and trained in place. UsageError without them."""
        if own is None:
            raise UsageError(
                "this run trains modules of your own, which no file describes",
                hint="hand the same modules in from Python: network=... of layerline.train, resume, load or evaluate",
            )
        return Network(own, self.normaliser, input_shape)


BlockList = Annotated[Mlp | Own, Field(discriminator="kind")]
