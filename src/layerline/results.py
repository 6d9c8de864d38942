"""What a finished training says: the content of `result.json`."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from typing import Any

import torch

import layerline
from layerline.data.dataset import Dataset
from layerline.data.own import OwnData
from layerline.reporting.run_folder import RunFolder
from layerline.runtime.checkpoint import Progress
from layerline.runtime.execute import accuracy
from layerline.runtime.model import Model
from layerline.runtime.saved import weights_sha256


def _go_on() -> None:
    pass


def readouts_of(model: Model, data: Dataset, heed: Callable[[], None] = _go_on) -> dict[str, float]:
    """Accuracy on the held-out examples of every readout that the model has, the chosen one first."""
    test = data.test
    assert test is not None
    return {r.kind: accuracy(model, test, r, heed) for r in model.available_readouts()}  # type: ignore[attr-defined]


Judged = dict[int, tuple[int, dict[str, float]]]
"""Of every node: how many held-out examples it has, and the fraction of them that each readout gets right."""


def judge_own(model: Model, data: OwnData, heed: Callable[[], None] = _go_on) -> Judged:
    """What the nodes here find on their own held-out examples; without any, 0 and nothing."""
    return {
        node: (len(part.test), readouts_of(model, part, heed)) if part.test else (0, {})
        for node, part in data.parts.items()
    }


def judged_together(judged: Judged) -> dict[str, float]:
    """The accuracy of every readout over the held-out examples of all nodes, in their order."""
    found = [judged[node] for node in sorted(judged) if judged[node][0]]
    count = sum(examples for examples, _ in found)
    return {
        kind: sum(examples * readouts[kind] for examples, readouts in found) / count
        for kind in (found[0][1] if found else ())
    }


def values_of_nodes(judged: Judged, data: OwnData, readout: str) -> dict[str, Any]:
    """For result.json: what each node has, and what its own held-out examples say of the chosen readout."""
    found = [judged[node] for node in sorted(judged)]
    return {
        "node_examples": [account.examples for account in data.accounts],
        "node_held_out": [examples for examples, _ in found],
        "node_accuracies": [readouts.get(readout) for _, readouts in found],
    }


def values_of(
    model: Model,
    dataset: str,
    readouts: dict[str, float],
    progress: Progress,
    folder: RunFolder | None,
    **more: Any,
) -> dict[str, Any]:
    """The content of result.json. `readouts`: the accuracies, if there are any; `more`: what a run over nodes says."""
    run = model.run
    chosen = next(iter(readouts.values()), None)
    return {
        "preset": run.preset,
        "dataset": dataset,
        "test_accuracy": None if run.validation else chosen,
        "validation_accuracy": chosen if run.validation else None,
        "readout": run.readout.kind,
        "readouts": readouts,
        "train_seconds": round(progress.train_seconds, 3),
        "epochs": run.epochs,
        "chapters": run.chapter_count,
        "schedule": run.schedule.kind,
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
