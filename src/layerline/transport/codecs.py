"""Codecs: how a tensor is written for one link, and what both of its ends remember.

Problem: All-Layers hands every block on once a chapter, 54 MB for the paper's network; on a slow link that is the run.
Solution: send weights in fewer bits, and never lose what rounding left over.

- `fp32`: every tensor as it is. Labels and other integers in the smallest type that holds them, in every codec.
- `bf16`: matrices of weights, and outputs, rounded to bfloat16.
- `int8`: activations of a stream as steps from zero; matrices of weights as steps from the last version that both ends
  hold:

      1 difference   d = x − r                    r: the reference, what the receiver has decoded last
      2 steps        q = round(d / s), s = max |d| / 127 over an output unit's row
      3 both ends    r ← r + s·q                  the same two rounded operations: the same bits

  What rounding left over, x − r, is part of the next difference: that is error feedback, and needs no residual beside
  the reference. |x − r| ≤ s/2 after every message, however many there were.

Everything else (vectors, integers, names that begin with `optimizer.`) travels without loss: moments are a small-number
business, and a bias is a thousandth of its block.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from layerline.errors import LayerlineError
from layerline.settings import Settings
from layerline.transport.message import Key

EXACT = "optimizer."
"""Tensors whose names begin with this are never rounded."""

Coding = Literal["exact", "bf16", "int8", "steps"]
"""`steps`: as int8 steps from zero, of which nobody keeps anything."""


class BaseCodec(Settings):
    """How floating-point tensors are written on a link."""

    @abstractmethod
    def coding(self, key: Key, name: str, tensor: Tensor) -> Coding:
        """How this tensor travels."""

    @property
    def lossless(self) -> bool:
        """Whether the receiver holds the sender's bits."""
        return False


STREAMED = ("activations", "gradients")
"""What travels in a stream, with every minibatch anew."""


def _matrix(key: Key, name: str, tensor: Tensor) -> bool:
    """Whether a tensor may be rounded: float32, at least two-dimensional, and no optimizer's."""
    travels = key.carries in ("state", "weights", "outputs", *STREAMED)  # while training; finished, it comes home exact
    return travels and tensor.dtype == torch.float32 and tensor.dim() >= 2 and not name.startswith(EXACT)


class Fp32(BaseCodec):
    """Every tensor unchanged."""

    kind: Literal["fp32"] = "fp32"

    def coding(self, key: Key, name: str, tensor: Tensor) -> Coding:
        return "exact"

    @property
    def lossless(self) -> bool:
        return True


class Bf16(BaseCodec):
    """Weights and outputs rounded to bfloat16: half the bytes."""

    kind: Literal["bf16"] = "bf16"

    def coding(self, key: Key, name: str, tensor: Tensor) -> Coding:
        return "bf16" if _matrix(key, name, tensor) else "exact"


class Int8(BaseCodec):
    """Weights as int8 steps from the last version both ends hold, a stream's activations as steps from zero with a
    scale for each example; outputs and gradients in bfloat16: a quarter of the bytes."""

    kind: Literal["int8"] = "int8"
    first: Literal["int8", "bf16", "exact"] = "int8"
    """How a tensor's first message on a link travels: as steps from zero, or in full."""

    def coding(self, key: Key, name: str, tensor: Tensor) -> Coding:
        if key.carries == "activations" and tensor.dim() >= 2 and tensor.is_floating_point():
            return "steps"
        if not _matrix(key, name, tensor):
            return "exact"
        return "int8" if key.carries in ("state", "weights") else "bf16"


Codec = Annotated[Fp32 | Bf16 | Int8, Field(discriminator="kind")]


def steps(tensor: Tensor, reference: Tensor | None, what: str) -> tuple[Tensor, Tensor]:
    """Scales, float32 [rows], and int8 steps from `reference` (None: from zero). LayerlineError if it is not finite."""
    difference = tensor if reference is None else tensor - reference
    rows = difference.flatten(1)
    largest = rows.abs().amax(1) if rows.numel() else rows.new_zeros(len(rows))
    scale = largest / 127
    if not bool(torch.isfinite(scale).all()):
        raise LayerlineError(f"{what} is not finite: training diverged", hint="choose a smaller learning rate: --lr")
    divisor = torch.where(scale > 0, scale, torch.ones_like(scale))
    return scale, rows.div(divisor[:, None]).round_().clamp_(-127, 127).to(torch.int8).view(tensor.shape)


def stepped(reference: Tensor | None, scale: Tensor, quanta: Tensor) -> Tensor:
    """`reference` + scale·steps, a new tensor. Product and sum are rounded one after the other, never fused, so that
    both ends get the same bits whatever their vector units."""
    step = quanta.flatten(1).float().mul_(scale[:, None]).view(quanta.shape)
    return step if reference is None else step.add_(reference)


def narrowest(tensor: Tensor) -> torch.dtype:
    """The smallest integer type that holds every value of an integer tensor; other tensors keep their type."""
    if tensor.dtype not in (torch.int16, torch.int32, torch.int64) or tensor.numel() == 0:
        return tensor.dtype
    low, high = (int(value) for value in tensor.aminmax())
    for dtype in (torch.uint8, torch.int16, torch.int32):
        limits = torch.iinfo(dtype)
        if limits.min <= low and high <= limits.max and dtype.itemsize < tensor.dtype.itemsize:
            return dtype
    return tensor.dtype
