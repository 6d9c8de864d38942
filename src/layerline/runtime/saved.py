"""A trained model on disk: `model/` in a run folder, enough to predict without the training data.

    model.safetensors   parameters and buffers of blocks, local heads and the readout
    model.json          what the examples looked like: type, shape, classes, mean and deviation
    config.toml         the Run
    README.md           the model card (written by the report)

Loading runs no code from these files: safetensors, JSON and TOML only.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from layerline.blocks.encoder import Encoder
from layerline.blocks.normaliser import BaseNormaliser, NoNorm
from layerline.blocks.own import OwnNetwork, blocks_of
from layerline.blocks.tokens import TokenEncoder
from layerline.data.labels import LabelInput
from layerline.errors import CheckpointError, UsageError
from layerline.files import write_text
from layerline.run import Run
from layerline.runs import from_toml
from layerline.runtime.checkpoint import write_tensors
from layerline.runtime.model import PRECISIONS, Model, build_network
from layerline.runtime.stream.model import StreamModel
from layerline.runtime.training import Predictor
from layerline.stream_run import StreamRun

FORMAT = 1

AnyModel = Model | StreamModel


def weights_sha256(model: Predictor) -> str:
    """SHA-256 over all trained parameters and buffers in network order, raw little-endian bytes."""
    digest = hashlib.sha256()
    for tensor in model.trained_tensors().values():
        array = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
        digest.update(array.data)
    return digest.hexdigest()


def save_model(model: AnyModel, folder: Path) -> None:
    """Write the model's files (the card is the report's). LayerlineError on a full disk."""
    encoder = model.encoder
    write_tensors(
        folder / "model.safetensors", {name: tensor.cpu() for name, tensor in model.trained_tensors().items()}
    )
    facts = {
        "format": FORMAT,
        "images": encoder.images,
        "shape": encoder.shape,
        "classes": model.classes,
        "mean": encoder.mean,
        "std": encoder.std,
        "flat": encoder.flat,
    }
    write_text(folder / "model.json", json.dumps(facts, indent=2) + "\n")
    write_text(folder / "config.toml", model.run.to_toml())


@dataclass(frozen=True)
class Description:
    """`model.json`: what the examples looked like."""

    images: bool
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flat: bool


def load_model(path: str | Path, network: OwnNetwork | None = None) -> AnyModel:
    """The model of a run folder (or of its `model/`), on the CPU, ready to predict.

    `network`: the blocks, where the run trained modules of one's own; their weights are overwritten. UsageError where
    no model lies at `path`; CheckpointError where it is damaged.
    """
    folder = model_folder(Path(path))
    run = from_toml(folder / "config.toml")
    about = _describe(folder / "model.json")
    with torch.random.fork_rng(devices=[]):
        if isinstance(run, StreamRun):
            encoder: Encoder | TokenEncoder = _encoder(about, NoNorm(), None, torch.float32)
            if run.reads_text:
                encoder = TokenEncoder(about.shape[0], len(about.classes))
            model: AnyModel = StreamModel(run, encoder, about.classes, network)
        else:
            assert isinstance(run, Run)
            labels = run.labels if run.writes_labels else None
            encoder_ = _encoder(about, run.network.normaliser, labels, PRECISIONS[run.precision])
            model = Model(run, build_network(run, encoder_.input_shape, blocks_of(network)), encoder_, about.classes)
    _fill(model, folder / "model.safetensors", own=network is not None)
    return model.eval()


def _encoder(about: Description, normaliser: BaseNormaliser, labels: LabelInput | None, dtype: torch.dtype) -> Encoder:
    return Encoder(
        images=about.images,
        shape=about.shape,
        classes=len(about.classes),
        mean=about.mean,
        std=about.std,
        normaliser=normaliser,
        labels=labels,
        flat=about.flat,
        dtype=dtype,
    )


def model_folder(path: Path) -> Path:
    """The folder with the model's files, for a run folder or the folder itself."""
    for folder in (path / "model", path):
        if (folder / "model.json").is_file():
            return folder
    if (path / "config.toml").is_file():
        raise UsageError(f"the run in {path} is not finished", hint=f"finish it: layerline resume {path}")
    raise UsageError(f"there is no model in {path}", hint="train one: layerline train digits")


def _describe(path: Path) -> Description:
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if facts.pop("format") != FORMAT:
            raise ValueError("another format")
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in facts.items()}
        return Description(**values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None


def _fill(model: Predictor, path: Path, *, own: bool) -> None:
    try:
        saved = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged or not a safetensors file: {error}") from None
    made = model.trained_tensors()
    shapes = [{name: tensor.shape for name, tensor in tensors.items()} for tensors in (made, saved)]
    wrong = [name for name in made.keys() | saved.keys() if shapes[0].get(name) != shapes[1].get(name)]
    if wrong and own:
        raise CheckpointError(
            f"{path} does not fit the modules that were handed in: {sorted(wrong)[0]}",
            hint="hand in modules of the same kinds and sizes as those that were trained",
        )
    if wrong:
        raise CheckpointError(
            f"{path} does not fit the network of its config.toml: {sorted(wrong)[0]}",
            hint="take both files from the same run folder, or train the model anew",
        )
    with torch.no_grad():
        for name, tensor in made.items():
            tensor.copy_(saved[name])
