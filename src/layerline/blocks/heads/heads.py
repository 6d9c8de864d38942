"""Heads for a whole network: one on every block but the last, and what they cost beside their blocks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from layerline.blocks.cost import layer_costs
from layerline.blocks.heads.ahead import AugLocalHead, ManHead
from layerline.blocks.heads.base import BaseHead
from layerline.blocks.heads.image import CnnHead, ConvHead, MlpHead, MlpSrHead, PooledHead
from layerline.blocks.heads.text import SharedUnembeddingHead, UnembeddingHead
from layerline.errors import UsageError

Head = Annotated[
    MlpSrHead
    | MlpHead
    | CnnHead
    | ConvHead
    | PooledHead
    | UnembeddingHead
    | SharedUnembeddingHead
    | AugLocalHead
    | ManHead,
    Field(discriminator="kind"),
]


def build_heads(
    head: BaseHead,
    blocks: Sequence[nn.Module],
    input_shape: tuple[int, ...],
    classes: int,
    dtype: torch.dtype = torch.float32,
    at: Collection[int] | None = None,
) -> dict[int, nn.Module]:
    """A fresh head for every block but the last, whose scores are the network's own, by the block's index.

    `at`: only for these blocks. `input_shape` and `dtype` are those of one example (tokens: int64). Raises
    `UsageError`, naming the block, where the head does not fit.
    """
    built = {}
    for index, cost in enumerate(layer_costs(blocks, input_shape, dtype)[:-1]):
        if at is not None and index not in at:
            continue
        try:
            built[index] = head.build(cost.output_shape, classes, blocks[index + 1 :])
            if dtype.is_floating_point:
                _refuse_rows(head.kind, built[index], cost.output_shape, classes)
        except UsageError as error:
            raise UsageError(f"block {index + 1} of {len(blocks)}: {error.what}", hint=error.hint) from error
    return built


def _refuse_rows(kind: str, head: nn.Module, shape: tuple[int, ...], classes: int) -> None:
    """UsageError for a head that scores every row of outputs [*shape], where an example has one label."""
    if layer_costs([head], shape)[0].output_shape != (classes,):
        raise UsageError(
            f"the head '{kind}' scores every row of outputs {list(shape)}, and an example has one label",
            hint="end the block with images [C, H, W], or flatten its outputs and choose the head 'linear'",
        )


def head_shares(
    heads: Sequence[nn.Module],
    blocks: Sequence[nn.Module],
    input_shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
) -> tuple[float, ...]:
    """Multiply-accumulates of every head over those of its block; infinite on a block without any (an embedding)."""
    costs = layer_costs(blocks, input_shape, dtype)
    shares = []
    for head, block in zip(heads, costs, strict=False):
        (cost,) = layer_costs([head], block.output_shape)
        shares.append(cost.macs / block.macs if block.macs else float("inf"))
    return tuple(shares)
