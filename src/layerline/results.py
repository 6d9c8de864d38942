"""What a finished training says: the content of `result.json`."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from typing import Any

import torch

import layerline
from layerline.data.own import OwnData
from layerline.data.text_set import AnySet, TextSet
from layerline.reporting.run_folder import RunFolder
from layerline.runtime.checkpoint import Progress
from layerline.runtime.judging import Judged
from layerline.runtime.saved import weights_sha256
from layerline.runtime.stream.model import StreamModel
from layerline.runtime.training import Predictor


def bits_of(model: Predictor, data: AnySet, heed: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """What a language model is judged by: bits for every character of the validation split.

    `heed` may stop the evaluation.
    """
    if not isinstance(data, TextSet) or not isinstance(model, StreamModel):
        return {}
    bits = model.bits(data.test, heed=heed)
    return {"tokens": model.run.tokens, "validation_bits_per_character": bits["last"], "bits_per_character": bits}


def values_of_nodes(judged: Judged, data: OwnData, readout: str) -> dict[str, Any]:
    """For result.json: what each node has, and what its own held-out examples say of the chosen readout."""
    found = [judged[node] for node in sorted(judged)]
    return {
        "node_examples": [account.examples for account in data.accounts],
        "node_held_out": [examples for examples, _ in found],
        "node_accuracies": [readouts.get(readout) for _, readouts in found],
    }


def values_of(
    model: Predictor,
    dataset: str,
    readouts: dict[str, float],
    progress: Progress,
    folder: RunFolder | None,
    *,
    held_out: bool | None = None,
    **more: Any,
) -> dict[str, Any]:
    """The content of result.json. `readouts`: the accuracies, if there are any; `more`: what a run over nodes says.

    `held_out`: whether they are of a validation split; None: as the run says.
    """
    run = model.run
    chosen = next(iter(readouts.values()), None)
    held_out = run.validation if held_out is None else held_out
    return {
        "preset": run.preset,
        "dataset": dataset,
        "test_accuracy": None if held_out else chosen,
        "validation_accuracy": chosen if held_out else None,
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
            {"epoch": p.epoch, "seconds": round(p.train_seconds, 3), p.split: p.accuracy}
            | ({} if p.bits is None else {"bits_per_character": p.bits})
            for p in progress.curve
        ],
        "run_dir": str(folder.path) if folder else None,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {
            "layerline": layerline.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
