"""The network of a stream in blocks, and how its images lie: what the run describes, or what was handed in from Python.

nn.Sequential     layers, cut as the run says
list of modules   blocks already, each as it is
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from layerline.blocks.architecture import OwnLayers
from layerline.blocks.cost import layer_costs
from layerline.blocks.cut import CutLayers
from layerline.blocks.network import predicting
from layerline.blocks.own import OwnNetwork, modules_of, require_trainable
from layerline.errors import UsageError
from layerline.stream_run import StreamRun


def layers_of(run: StreamRun, shape: tuple[int, ...], classes: int, own: OwnNetwork | None) -> list[nn.Module]:
    """Layers in a row: fresh ones for examples [*shape], or those that were handed in.

    UsageError for own ones where the run describes its network, or none where it does not.
    """
    if own is None:
        return run.network.layers(shape, classes)
    if not isinstance(run.network, OwnLayers):
        raise UsageError("this run describes its network itself", hint="leave out network=, or start a new run")
    return modules_of(own)


def stream_blocks(
    run: StreamRun, shape: tuple[int, ...], classes: int, own: OwnNetwork | None, sample: Tensor
) -> list[nn.Sequential]:
    """The same in blocks. `sample`: inputs [2, …] of the first. UsageError for what cannot be cut or trained so."""
    layers = layers_of(run, shape, classes, own)
    if own is None:
        return run.cut.split(layers, sample)
    if isinstance(own, nn.Sequential):
        blocks = run.cut.split(layers, sample)
    elif run.cut != CutLayers():
        raise UsageError(
            f"a list of modules is blocks already, and this run cuts layers (cut {run.cut.kind})",
            hint="hand in one nn.Sequential of all layers, or leave the cut out",
        )
    else:
        blocks = [layer if type(layer) is nn.Sequential else nn.Sequential(layer) for layer in layers]
    require_trainable(blocks)
    _refuse_misfits(blocks, sample)
    return blocks


def _refuse_misfits(blocks: Sequence[nn.Sequential], sample: Tensor) -> None:
    """UsageError that says which layer of which block does not take what reaches it."""
    shape = tuple(sample.shape[1:])
    for number, block in enumerate(blocks, start=1):
        try:
            shape = layer_costs(block, shape)[-1].output_shape
        except UsageError as error:
            raise UsageError(f"block {number}: {error.what}", hint=error.hint) from None


def refuse_scores(run: StreamRun, scores: tuple[int, ...], classes: int) -> None:
    """UsageError where own layers do not end with scores. `scores`: the last block's outputs, of one example."""
    if isinstance(run.network, OwnLayers) and scores != (classes,):
        raise UsageError(
            f"the network ends with outputs of the shape {list(scores)}, and there are {classes} classes",
            hint=f"end it with a score for every class, such as nn.Linear(…, {classes})",
        )


def layout_for(run: StreamRun, layers: Sequence[nn.Module], sample: Tensor) -> torch.memory_format:
    """How images, and the weights of these layers, should lie: channels last, 1.2 to 1.3 times as fast for convolutions
    on CPUs (decision 0031); own layers that do not take them so (`view` after a convolution) get them in the usual way.

    Own layers are moved to it. `sample`: inputs [2, …] of the first.
    """
    if sample.ndim != 4:
        return torch.contiguous_format
    if not isinstance(run.network, OwnLayers):
        return torch.channels_last
    try:
        row = nn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        device = next((p.device for p in row.parameters()), sample.device)
        with predicting(row), torch.no_grad():
            row(sample.clone(memory_format=torch.channels_last).to(device))
    except RuntimeError:
        for parameter in nn.ModuleList(layers).parameters():
            parameter.data = parameter.data.contiguous()
        return torch.contiguous_format
    return torch.channels_last
