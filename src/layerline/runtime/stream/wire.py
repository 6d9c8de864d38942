"""A tensor of a stream on its way: its numbers as they lie in memory, and how they lie.

Problem: which kernel computes a convolution, and so the last bits, depends on how its input lies in memory (channels
last or first), and a message only has shapes. Solution: the dimensions travel from the outermost to the innermost,
which needs no rearranging, and the tensor's name says the strides it had.

    activations [64, 32, 8, 8], channels last  →  "2048,1,256,32": [64, 8, 8, 32]

A parcel, several tensors by name, travels as "NAME STRIDES" each.
"""

from __future__ import annotations

from torch import Tensor

from layerline.errors import LayerlineError


def packed(tensor: Tensor) -> dict[str, Tensor]:
    """The tensor to be sent, under the name that says how it lies."""
    tensor = tensor.detach()
    strides = tensor.stride()
    outermost_first = tensor.permute(_order(strides))
    if not outermost_first.is_contiguous():  # it has gaps, or lies twice in the same place
        tensor = tensor.contiguous()
        strides, outermost_first = tensor.stride(), tensor
    return {",".join(map(str, strides)): outermost_first}


def unpacked(tensors: dict[str, Tensor]) -> Tensor:
    """The tensor as it was. LayerlineError where the name is no such one."""
    (name, sent), *others = tensors.items()
    try:
        strides = tuple(int(word) for word in name.split(","))
    except ValueError:
        strides = ()
    if others or len(strides) != sent.dim():
        raise LayerlineError(
            f"an activation came under the name '{name}', which is no layout of {sent.dim()} dimensions"
        )
    order = _order(strides)
    shape = [0] * sent.dim()
    for place, size in zip(order, sent.shape, strict=True):
        shape[place] = size
    lies = sent.contiguous()
    whole = all(size == 1 or strides[at] == lies.stride(order.index(at)) for at, size in enumerate(shape))
    if not whole:
        raise LayerlineError(f"an activation of {list(shape)} came as '{name}', which is not how it lies")
    return lies.as_strided(shape, strides)


def packed_parcel(parcel: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a parcel to be sent."""
    found = {}
    for name, tensor in parcel.items():
        ((layout, sent),) = packed(tensor).items()
        found[f"{name} {layout}"] = sent
    return found


def unpacked_parcel(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parcel as it was. LayerlineError where a name is no such one."""
    parcel = {}
    for title, sent in tensors.items():
        name, _, layout = title.partition(" ")
        parcel[name] = unpacked({layout: sent})
    return parcel


def _order(strides: tuple[int, ...]) -> list[int]:
    """Dimensions from the outermost to the innermost."""
    return sorted(range(len(strides)), key=lambda at: -strides[at])
