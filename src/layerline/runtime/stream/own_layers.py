"""The blocks of a stream: what the run's network makes, or what was handed in from Python.

nn.Sequential     layers, cut as the run says
list of modules   blocks already, each as it is
"""

from __future__ import annotations

from torch import Tensor, nn

from layerline.blocks.architecture import OwnLayers
from layerline.blocks.own import OwnNetwork, modules_of, require_own_parameters
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
    """The same in blocks. `sample`: inputs [2, …] of the first. UsageError for what cannot be cut so."""
    layers = layers_of(run, shape, classes, own)
    if own is None or isinstance(own, nn.Sequential):
        return run.cut.split(layers, sample)
    require_own_parameters(layers)
    return [layer if type(layer) is nn.Sequential else nn.Sequential(layer) for layer in layers]


def refuse_scores(run: StreamRun, scores: tuple[int, ...], classes: int) -> None:
    """UsageError where own layers do not end with scores. `scores`: the last block's outputs, of one example."""
    if isinstance(run.network, OwnLayers) and scores != (classes,):
        raise UsageError(
            f"the network ends with outputs of the shape {list(scores)}, and there are {classes} classes",
            hint=f"end it with a score for every class, such as nn.Linear(…, {classes})",
        )
