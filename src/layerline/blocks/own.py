"""Networks that are handed in from Python."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from layerline.blocks.split import require_sequential, split_each
from layerline.errors import UsageError

OwnNetwork = nn.Sequential | Sequence[nn.Module]
"""Layers, to be cut into blocks; or a module for every block."""


def modules_of(network: OwnNetwork) -> list[nn.Module]:
    """The layers, or blocks, of such a network. UsageError where there are none, or there is more to it."""
    if isinstance(network, nn.Sequential):
        require_sequential(network)
    modules = list(network) if isinstance(network, Sequence | nn.ModuleList | nn.Sequential) else []
    if not modules or not all(isinstance(module, nn.Module) for module in modules):
        raise UsageError(
            f"a {type(network).__name__} is no network of blocks",
            hint="give an nn.Sequential, or a list with a module for every block",
        )
    return modules


def blocks_of(network: OwnNetwork | None) -> list[nn.Module] | None:
    """The same in blocks, an `nn.Sequential` cut by `split_each`. UsageError where they are none."""
    if network is None:
        return None
    return split_each(network) if isinstance(network, nn.Sequential) else modules_of(network)


def require_trainable(blocks: Iterable[nn.Module]) -> None:
    """UsageError for a block that has no parameters to train, trains those of another, or could not be saved."""
    owner: dict[int, int] = {}
    for number, block in enumerate(blocks, start=1):
        trained = [p for p in block.parameters() if p.requires_grad]
        if not trained:
            raise UsageError(
                f"block {number} has no parameters to train", hint="join it to a neighbour: layerline.split_each(...)"
            )
        for parameter in trained:
            if owner.setdefault(id(parameter), number) != number:
                raise UsageError(
                    f"blocks {owner[id(parameter)]} and {number} share a parameter: both would train it",
                    hint="join the two blocks, or give each parameters of its own",
                )
        _require_tensors_as_wanted(number, block)


def _require_tensors_as_wanted(number: int, block: nn.Module) -> None:
    """UsageError for parameters that are not float32, and for state besides parameters and buffers."""
    other = next((p.dtype for p in block.parameters() if p.dtype != torch.float32), None)
    if other is not None:
        raise UsageError(
            f"block {number} has parameters in {str(other).removeprefix('torch.')}: blocks learn in float32",
            hint="convert them: network.float(); --precision bf16-mixed computes in bfloat16",
        )
    for module in block.modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            raise UsageError(
                f"block {number} has a {type(module).__name__} with state besides its tensors, which nobody saves",
                hint="keep it in a buffer (register_buffer) in place of get_extra_state",
            )
