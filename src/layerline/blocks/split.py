"""Cut an `nn.Sequential` into blocks.

A block learns from a loss at its own output, so it needs a parameter. Layers come in *units*, which are never cut
apart by the functions that choose the cuts: a layer with trainable weights and the layers that only follow up on it
(no parameters, or a norm, or an activation with a parameter). Layers before the first weights go with the first unit,
and layers that share a parameter stay in one unit.

    Flatten  Linear  ReLU  Linear  ReLU  Dropout  Linear
    └──────────────────┘   └──────────────────┘   └────┘
          unit 0                  unit 1          unit 2

    split_each(net)          three blocks, one a unit
    split_into(net, 2)       two blocks, the heavier one as light as possible
    split_at(net, [3])       two blocks, where you say

Blocks hold the network's own layers, not copies: training the blocks trains the network. A block of one layer is that
layer; a block of several is a new `nn.Sequential`, numbered from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

from torch import Tensor, nn

from layerline.blocks.balance import partition
from layerline.blocks.cost import layer_costs, layer_seconds, learns, parameter_counts
from layerline.errors import UsageError, did_you_mean

Balance = Literal["parameters", "macs", "time"]


def split_at(sequential: nn.Sequential, cuts: Sequence[int]) -> list[nn.Module]:
    """Cut before the layers with the indices `cuts`: the first layer of every block but the first, increasing.

    Raises `UsageError` if a cut is out of range, repeated or not in order, if a block has no trainable parameter, or
    if two blocks share one.
    """
    require_sequential(sequential)
    length = len(sequential)
    for cut in cuts:
        if not 0 < cut < length:
            raise UsageError(
                f"cannot cut before layer {cut}: the network has the layers 0 to {length - 1}",
                hint=f"A cut names the first layer of a later block, 1 to {length - 1}."
                if length > 1
                else "A single layer cannot be cut.",
            )
    for earlier, later in pairwise(cuts):
        if earlier == later:
            raise UsageError(f"the cut before layer {later} is given twice", hint="Name each cut once.")
        if earlier > later:
            raise UsageError(
                f"the cuts are not in order: {later} comes after {earlier}", hint=f"Give {sorted(set(cuts))}."
            )
    bounds = [0, *cuts, length]
    _require_parameters(sequential, bounds)
    _require_own_parameters(sequential, bounds)
    return _blocks(sequential, cuts)


def split_each(sequential: nn.Sequential) -> list[nn.Module]:
    """One block for each layer with weights, together with the activations, norms and the like that follow it.

    Raises `UsageError` if the network has no trainable parameter.
    """
    return _blocks(sequential, unit_starts(sequential)[1:])


def split_into(
    sequential: nn.Sequential, count: int, balance: Balance = "parameters", sample: Tensor | None = None
) -> list[nn.Module]:
    """Cut into `count` blocks, the heaviest as light as possible, and among those cuts the most even.

    The weight of a block: `balance="parameters"`, its trainable parameters; "macs", the multiply-accumulates of its
    forward pass; "time", the seconds its layers take for forward and weight gradient, measured here. The last two need
    `sample`: one batch (batch, ...) on the network's device. Times differ from run to run, and the cuts may: for cuts
    to keep, note them and use `split_at`.

    Raises `UsageError` for more blocks than the network has units, an unknown balance, and a sample that is missing.
    """
    return _blocks(sequential, cuts_into(sequential, unit_starts(sequential), count, balance, sample))


def cuts_into(
    sequential: nn.Sequential, starts: Sequence[int], count: int, balance: Balance, sample: Tensor | None
) -> list[int]:
    """Where to cut into `count` blocks, if cuts are only allowed before the layers `starts` (the first is 0); as
    `split_into`."""
    if balance not in get_args(Balance):
        raise UsageError(f"cannot balance blocks by '{balance}'{did_you_mean(str(balance), get_args(Balance))}")
    if count < 1:
        raise UsageError(f"cannot cut a network into {count} blocks", hint="Ask for at least one.")
    if count > len(starts):
        raise UsageError(
            f"cannot cut the network into {count} blocks: each needs a layer with parameters of its own, "
            f"and there {'is' if len(starts) == 1 else 'are'} {len(starts)}",
            hint=f"Ask for at most {len(starts)} {'block' if len(starts) == 1 else 'blocks'}.",
        )
    costs = _weights(sequential, balance, sample)
    unit_costs = [sum(costs[start:stop]) for start, stop in pairwise([*starts, len(sequential)])]
    return [starts[unit] for unit in partition(unit_costs, count)]


def _weights(sequential: nn.Sequential, balance: Balance, sample: Tensor | None) -> tuple[float, ...]:
    """What each layer weighs."""
    if balance == "parameters":
        return parameter_counts(sequential)
    if sample is None:
        raise UsageError(
            f"balancing blocks by {balance} needs a sample to measure on",
            hint='Give one batch as `sample`, or use balance="parameters".',
        )
    if balance == "macs":
        return tuple(cost.macs for cost in layer_costs(sequential, tuple(sample.shape[1:]), sample.dtype))
    return layer_seconds(sequential, sample)


def unit_starts(sequential: nn.Sequential) -> list[int]:
    """The index of the first layer of every unit; the first is 0.

    Raises `UsageError` if the network has no trainable parameter, or is no plain row of layers.
    """
    require_sequential(sequential)
    learning = [index for index, layer in enumerate(sequential) if learns(layer)]
    if not learning:
        raise UsageError(
            "the network has no trainable parameters, so no block of it can learn",
            hint="Add a layer with parameters, or unfreeze one with `requires_grad_()`.",
        )
    starts = [index for index in learning if not _follows(sequential[index])] or learning[:1]
    starts[0] = 0
    glued = {start for first, last in _shared(sequential) for start in starts if first < start <= last}
    return [start for start in starts if start not in glued]


def _follows(layer: nn.Module) -> bool:
    """True for a layer that only scales and shifts what another made: a norm, a PReLU. Its parameters are vectors."""
    return isinstance(layer, nn.LayerNorm | nn.RMSNorm) or all(p.ndim < 2 for p in layer.parameters())


def _shared(sequential: nn.Sequential) -> list[tuple[int, int]]:
    """First and last layer of every trainable parameter that several layers hold."""
    holders: dict[int, list[int]] = {}
    for index, layer in enumerate(sequential):
        for parameter in layer.parameters():
            if parameter.requires_grad:
                holders.setdefault(id(parameter), []).append(index)
    return [(layers[0], layers[-1]) for layers in holders.values() if len(layers) > 1]


def _blocks(sequential: nn.Sequential, cuts: Sequence[int]) -> list[nn.Module]:
    layers = list(sequential)
    blocks: list[nn.Module] = []
    for start, stop in pairwise([0, *cuts, len(layers)]):
        if stop - start == 1:
            blocks.append(layers[start])
        else:
            block = nn.Sequential(*layers[start:stop])
            block.training = sequential.training
            blocks.append(block)
    return blocks


def require_sequential(network: object) -> None:
    """UsageError for what is no `nn.Sequential` with layers, or does more than run them."""
    if not isinstance(network, nn.Sequential):
        raise UsageError(
            f"cannot cut a {type(network).__name__} into blocks: only an nn.Sequential has its layers in a row",
            hint="Write the network as an nn.Sequential, or give its blocks as a list of modules.",
        )
    if not len(network):
        raise UsageError("the network has no layers, so there is nothing to cut", hint="Add layers to it first.")
    if type(network).forward is not nn.Sequential.forward:
        raise UsageError(
            f"cannot cut a {type(network).__name__} into blocks: its own `forward` may do more than run its layers",
            hint="Put what it does into layers of a plain nn.Sequential, or give its blocks as a list of modules.",
        )


def _require_parameters(sequential: nn.Sequential, bounds: Sequence[int]) -> None:
    layers = list(sequential)
    for block, (start, stop) in enumerate(pairwise(bounds)):
        if not any(learns(layer) for layer in layers[start:stop]):
            names = ", ".join(type(layer).__name__ for layer in layers[start:stop])
            where = f"layer {start}" if stop - start == 1 else f"layers {start}-{stop - 1}"
            raise UsageError(
                f"block {block + 1} ({where}: {names}) has no trainable parameters, so it cannot learn",
                hint="keep layers without parameters with the layer before them, as --cut layers and `split_each` do",
            )


def _require_own_parameters(sequential: nn.Sequential, bounds: Sequence[int]) -> None:
    for first, last in _shared(sequential):
        cut = next((cut for cut in bounds[1:-1] if first < cut <= last), None)
        if cut is not None:
            raise UsageError(
                f"the cut before layer {cut} parts the layers {first} and {last}, which share a parameter: "
                "two blocks would train it at once",
                hint="Move the cut, or give each layer parameters of its own.",
            )
