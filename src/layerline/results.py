"""What a finished training says: the content of `result.json`."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from typing import Any

import torch

import layerline
from layerline.data.dataset import Dataset
from layerline.reporting.run_folder import RunFolder
from layerline.runtime.checkpoint import Progress
from layerline.runtime.saved import weights_sha256
from layerline.runtime.training import Predictor


def _go_on() -> None:
    pass


def readouts_of(model: Predictor, data: Dataset, heed: Callable[[], None] = _go_on) -> dict[str, float]:
    """Accuracy on the held-out examples of every readout that the model has, the chosen one first."""
    test = data.test
    assert test is not None
    return {r.kind: model.accuracy(test, r, heed) for r in model.available_readouts()}


def values_of(
    model: Predictor,
    data: Dataset,
    progress: Progress,
    folder: RunFolder | None,
    heed: Callable[[], None] = _go_on,
    **more: Any,
) -> dict[str, Any]:
    """The content of result.json; `more`: what a run over nodes says besides. `heed` may stop the evaluation."""
    run = model.run
    readouts = readouts_of(model, data, heed) if data.test else {}
    chosen = next(iter(readouts.values()), None)
    return {
        "preset": run.preset,
        "dataset": data.name,
        "test_accuracy": None if run.validation else chosen,
        "validation_accuracy": chosen if run.validation else None,
        "readout": model.readout_names[0],
        "readouts": readouts,
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
