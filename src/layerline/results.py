"""What a finished training says: the content of `result.json`."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from typing import Any

import torch

import layerline
from layerline.data.text_set import AnySet, TextSet
from layerline.reporting.run_folder import RunFolder
from layerline.runtime.checkpoint import Progress
from layerline.runtime.saved import weights_sha256
from layerline.runtime.stream.model import StreamModel
from layerline.runtime.training import Predictor


def _go_on() -> None:
    pass


def readouts_of(model: Predictor, data: AnySet, heed: Callable[[], None] = _go_on) -> dict[str, float]:
    """Accuracy on the held-out examples of every readout that the model has, the chosen one first."""
    test = data.test
    assert test is not None
    return {r.kind: model.accuracy(test, r, heed) for r in model.available_readouts()}


def bits_of(model: Predictor, data: AnySet) -> dict[str, Any]:
    """What a language model is judged by: bits for every character (or byte) of the validation split."""
    if not isinstance(data, TextSet) or not isinstance(model, StreamModel):
        return {}
    bits = {readout.kind: model.bits(data.test, readout) for readout in model.available_readouts()}
    return {"validation_bits_per_character": bits["last"], "bits_per_character": bits}


def values_of(
    model: Predictor,
    data: AnySet,
    progress: Progress,
    folder: RunFolder | None,
    heed: Callable[[], None] = _go_on,
    **more: Any,
) -> dict[str, Any]:
    """The content of result.json; `more`: what a run over nodes says besides. `heed` may stop the evaluation."""
    run = model.run
    readouts = readouts_of(model, data, heed) if data.test else {}
    chosen = next(iter(readouts.values()), None)
    held_out = run.validation or isinstance(data, TextSet)
    return {
        "preset": run.preset,
        "dataset": data.name,
        "test_accuracy": None if held_out else chosen,
        "validation_accuracy": chosen if held_out else None,
        "readout": model.readout_names[0],
        "readouts": readouts,
        **bits_of(model, data),
        "train_seconds": round(progress.train_seconds, 3),
        "epochs": run.epochs,
        **run.facts,
        "nodes": run.nodes,
        "threads": run.threads,
        "device": run.device,
        "seed": run.seed,
        "precision": run.precision,
        "parameters": sum(p.numel() for p in model.parameters()),
        "weights_sha256": weights_sha256(model),
        **more,
        "curve": [
            {"epoch": p.epoch, "seconds": round(p.train_seconds, 3), p.split: p.accuracy} for p in progress.curve
        ],
        "run_dir": str(folder.path) if folder else None,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {
            "layerline": layerline.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
