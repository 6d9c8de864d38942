"""A model: blocks, their local heads, the readout and the encoder; what a run trains and leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from layerline.blocks.encoder import Encoder
from layerline.blocks.head import LinearHead
from layerline.blocks.linear import LinearReLU
from layerline.blocks.network import Network, predicting
from layerline.blocks.own import require_trainable
from layerline.data.dataset import Dataset
from layerline.data.own import OwnData
from layerline.errors import DataError
from layerline.objectives.cross_entropy import BaseCrossEntropy
from layerline.objectives.forward_forward import ForwardForward
from layerline.readouts.readouts import AllHeads, BaseReadout, Goodness, LastHead, Softmax
from layerline.run import Run, something_to_read
from layerline.runtime.seeding import generator
from layerline.runtime.training import Predictor

CHUNK_ROWS = 2048  # rows of a forward pass outside the training step: enough to fill the cores, small enough for caches

PRECISIONS = {"bf16-mixed": torch.bfloat16, "32-true": torch.float32}


class Model(Predictor):
    """Classifies raw examples [B, *shape], uint8 or float as in the training set.

    `states[l]` is what the objective owns at block l (local head, running means); `head` the softmax readout's, if any.
    """

    run: Run

    def __init__(self, run: Run, network: Network, encoder: Encoder, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.run, self.encoder, self.classes = run, encoder, classes
        self.network = network
        self.states = nn.ModuleList(run.objective.init(units, encoder.classes) for units in network.units)
        self.head: LinearHead | None = None
        if isinstance(run.readout, Softmax):
            self.head = LinearHead(sum(network.units[run.readout.skip :]), encoder.classes)

    @property
    def heads(self) -> Sequence[nn.Module]:
        """Local heads, one per block."""
        return list(self.states)

    @property
    def readout_head(self) -> nn.Module:
        """The softmax readout's head."""
        assert self.head is not None
        return self.head

    def goodness(self, norms_R: Tensor, units: int) -> Tensor:
        """Goodness of rows of `units` outputs from their L2 norms."""
        assert isinstance(self.run.objective, ForwardForward)
        return self.run.objective.of_norms(norms_R, units)

    def available_readouts(self) -> list[BaseReadout]:
        """Every readout this model has, the chosen one first."""
        chosen = self.run.readout
        others: list[BaseReadout] = []
        if self.run.writes_labels and len(self.network.blocks) > 1:
            others.append(Goodness())
        if isinstance(self.run.objective, BaseCrossEntropy):
            others += [LastHead()] if len(self.states) == 1 else [LastHead(), AllHeads()]
        return [chosen, *(readout for readout in others if readout.kind != chosen.kind)]  # type: ignore[attr-defined]

    def chunk_rows(self, readout: BaseReadout | None = None) -> int:
        """Examples that are read at once."""
        views = self.encoder.classes if isinstance(readout or self.run.readout, Goodness) else 1
        return max(1, CHUNK_ROWS // views)

    def scores(self, raw: Tensor, readout: BaseReadout | None = None) -> Tensor:
        """Scores per class, float32 [B, C] on the model's device, computed in chunks."""
        raw = torch.as_tensor(raw)
        refuse_other_examples(self.encoder, raw)
        readout = readout or self.run.readout
        device = next(self.parameters()).device
        if not len(raw):
            return torch.zeros(0, self.encoder.classes, device=device)
        with predicting(self), torch.inference_mode(), self.autocast():
            parts = [readout.scores(self, part.to(device)) for part in raw.split(self.chunk_rows(readout))]
            return torch.cat(parts)

    forward = scores

    def trained_tensors(self) -> dict[str, Tensor]:
        """Of each block and its local head, then of the readout."""
        named: dict[str, Tensor] = {}
        for index, (block, state) in enumerate(zip(self.network.blocks, self.states, strict=True)):
            named |= {f"blocks.{index}.{name}": tensor for name, tensor in block.state_dict().items()}
            named |= {f"heads.{index}.{name}": tensor for name, tensor in state.state_dict().items()}
        if self.head is not None:
            named |= {f"readout.{name}": tensor for name, tensor in self.head.state_dict().items()}
        return named

    def stage_tensors(self, stage: int) -> dict[str, Tensor]:
        """Of a block and its local head, or (stage after the last block) of the readout, named as a node has them."""
        if stage == len(self.network.blocks):
            return {f"head.{name}": tensor for name, tensor in self.readout_head.state_dict().items()}
        parts = {"block": self.network.blocks[stage], "state": self.states[stage]}
        return {f"{part}.{name}": each for part, module in parts.items() for name, each in module.state_dict().items()}

    def autocast(self) -> AbstractContextManager[object]:
        """The run's precision for forward passes of any module."""
        dtype = PRECISIONS[self.run.precision]
        device = next(self.parameters()).device.type
        return torch.autocast(device, torch.bfloat16, enabled=dtype != torch.float32)


def refuse_other_examples(encoder: Encoder, raw: Tensor) -> None:
    """DataError if these are not examples of the kind the model was trained on."""
    if (raw.dtype == torch.uint8) != encoder.images:
        wanted = "uint8 images, 0 to 255" if encoder.images else "floats"
        raise DataError(f"examples are {raw.dtype}, but the model was trained on {wanted}")
    if tuple(raw.shape[1:]) != encoder.shape:
        raise DataError(
            f"examples of shape {tuple(raw.shape[1:])}, but the model was trained on {encoder.shape}",
            hint="resize or convert them (channels, height, width), or train a model on this kind",
        )


def build_model(run: Run, data: Dataset | OwnData, network: Sequence[nn.Module] | None = None) -> Model:
    """A fresh model for this data: weights drawn from the run's seed, statistics taken from the training set.

    `network`: blocks of one's own, used (and trained) in place, instead of `run.network`.
    """
    run = run if network is None else run.with_own_network()
    labels = run.labels if run.writes_labels else None
    mean, std = data.statistics(run.standardise)
    flat = network is None or len(data.shape) == 1 or _starts_flat(network, data.shape)
    encoder = Encoder(
        images=data.is_image,
        shape=data.shape,
        classes=data.num_classes,
        mean=mean,
        std=std,
        normaliser=run.network.normaliser,
        labels=labels,
        flat=flat,
        dtype=PRECISIONS[run.precision],
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(generator(run.seed, "weights").initial_seed())
        built = build_network(run, encoder.input_shape, network)
    _check_blocks(run, built)
    return Model(run, built, encoder, data.classes)


def build_network(run: Run, input_shape: tuple[int, ...], own: Sequence[nn.Module] | None = None) -> Network:
    """The blocks of a run, drawn from torch's global generator; as one where its objective joins them."""
    network = run.network.build(input_shape, own)
    return network.joined(input_shape) if run.objective.joins_blocks else network


def _check_blocks(run: Run, built: Network) -> None:
    """UsageError for blocks, perhaps of one's own, that cannot be trained or read as the run says."""
    something_to_read(run, len(built.blocks))
    require_trainable(built.blocks)


def _starts_flat(network: Sequence[nn.Module], shape: tuple[int, ...]) -> bool:
    """True if the first layer that does something wants vectors, for examples [*shape] of more than one axis."""
    for module in nn.Sequential(*network).modules():
        match module:
            case LinearReLU():
                return True
            case nn.Linear():  # along the last axis, if it fits there only
                return not module.in_features == shape[-1] < torch.Size(shape).numel()
            case nn.Flatten():  # a vector is as good, and can have a label appended
                return (module.start_dim, module.end_dim) == (1, -1)
            case nn.Unflatten():
                return module.dim == 1
            case nn.BatchNorm1d():
                return len(shape) > 2
        if list(module.parameters(recurse=False)) and not list(module.children()):
            return False
    return False
