"""How a list of layers becomes blocks, as settings of a run.

    embedding  decoder  decoder  decoder  unembedding         stem  residual  residual  pool+linear
    └────────────────┘  └─────┘  └──────────────────┘  layers  └───────────┘  └───────────────────┘
    └─────────────────────────┘  └──────────────────┘  count=2
    └────────────────┘  └───────────────────────────┘  at=(2,)

The classifier joins the block before it: by itself it is no more than that block's head. In layers, a stem (or
embedding) joins the block after it; by count it may be a block of its own, so that ResNet-110 has the 55 blocks of the
literature: `count` with 55.

Blocks hold the layers themselves, not copies, and every block is an `nn.Sequential`, also of one layer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from layerline.blocks.layer import Stem
from layerline.blocks.split import Balance, cuts_into, split_at, unit_starts
from layerline.settings import Settings


class BaseCut(Settings, ABC):
    """A way to choose where blocks begin."""

    @abstractmethod
    def cuts(self, layers: Sequence[nn.Module], sample: Tensor | None = None) -> tuple[int, ...]:
        """The index of the first layer of every block but the first. `sample`: one batch on the layers' device.

        Raises `UsageError` for what cannot be.
        """

    def split(self, layers: Sequence[nn.Module], sample: Tensor | None = None) -> list[nn.Sequential]:
        """The layers in blocks. Raises `UsageError` for cuts that cannot be: see `split_at`."""
        parts = split_at(nn.Sequential(*layers), self.cuts(layers, sample))
        return [part if type(part) is nn.Sequential else nn.Sequential(part) for part in parts]


def _starts(layers: Sequence[nn.Module]) -> list[int]:
    """Where blocks may begin: at every layer with weights but the classifier, the last of all."""
    starts = unit_starts(nn.Sequential(*layers))
    return starts[:-1] if len(starts) > 1 else starts


class CutLayers(BaseCut):
    """As many blocks as there are layers."""

    kind: Literal["layers"] = "layers"

    def cuts(self, layers: Sequence[nn.Module], sample: Tensor | None = None) -> tuple[int, ...]:
        later = _starts(layers)[1:]
        return tuple(later[1:] if isinstance(layers[0], Stem) else later)


class CutCount(BaseCut):
    """So many blocks, the heaviest as light as possible."""

    kind: Literal["count"] = "count"
    blocks: int = Field(default=2, ge=1)
    """Number of blocks; the literature's K."""
    balance: Balance = "macs"
    """What blocks are weighed by: parameters; macs, multiply-accumulates of a forward pass; or time, measured when the
    run is started, without heads, and noted in it as the places where blocks begin."""

    def cuts(self, layers: Sequence[nn.Module], sample: Tensor | None = None) -> tuple[int, ...]:
        return tuple(cuts_into(nn.Sequential(*layers), _starts(layers), self.blocks, self.balance, sample))


class CutAt(BaseCut):
    """Blocks that begin where told."""

    kind: Literal["at"] = "at"
    positions: tuple[int, ...] = ()
    """The first layer of every block but the first, from 0, increasing."""

    def cuts(self, layers: Sequence[nn.Module], sample: Tensor | None = None) -> tuple[int, ...]:
        return self.positions


Cut = Annotated[CutLayers | CutCount | CutAt, Field(discriminator="kind")]
