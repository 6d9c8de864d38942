"""`--cut count --balance time`: measured once, when a run is started, and noted in it as places where blocks begin.

Problem: times differ from one start to the next, and with them the blocks. So no such run could be resumed, nor would
processes agree on it. Solution: whoever starts it measures before anything is recorded; what is trained, and lies in
`config.toml`, says where blocks begin, as if somebody had asked for `--cut at --positions …`.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from layerline.blocks.cut import CutAt
from layerline.blocks.own import OwnNetwork
from layerline.data.text_set import AnySet, TextSet
from layerline.errors import UsageError
from layerline.runtime.members import Membership
from layerline.runtime.stream.model import encoder_of
from layerline.runtime.stream.network import layers_of, layout_for
from layerline.runtime.threads import compute_threads
from layerline.stream_run import StreamRun


def settled_cut(run: StreamRun, shape: tuple[int, ...], classes: int, own: OwnNetwork | None = None) -> StreamRun:
    """The run, saying where blocks begin if they are to take equally long. `shape`: of an example; of a text (T,).

    UsageError in one of several processes, which would all measure something else.
    """
    if not run.cuts_by_time or not (own is None or isinstance(own, nn.Sequential)):
        return run
    if Membership.of_environment():
        raise UsageError(
            "times differ from one process to the next, and with them the blocks",
            hint="measure once: layerline plan says what to give by --cut at --positions N,N,…",
        )
    encoder = encoder_of(run, shape, classes)
    device = torch.device("cuda" if run.device == "cuda" else "cpu")
    made = layers_of(run, encoder.shape, classes, own)
    layers = [layer.to(device) for layer in (made if own is None else copy.deepcopy(made))]
    sample = torch.zeros(-(-run.batch_size // run.parts), *encoder.input_shape, dtype=encoder.dtype, device=device)
    if sample.ndim == 4:
        sample = sample.contiguous(memory_format=layout_for(run, layers, sample[:2]))
    half = torch.autocast(device.type, torch.bfloat16, enabled=run.precision == "bf16-mixed")
    with compute_threads(run), half:
        return run.replace(cut=CutAt(positions=run.cut.cuts(layers, sample)))


def settled_cut_for(run: StreamRun, data: AnySet, own: OwnNetwork | None = None) -> StreamRun:
    """The same for data at hand."""
    return settled_cut(run, (data.context,) if isinstance(data, TextSet) else data.shape, data.num_classes, own)
