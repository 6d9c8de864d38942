"""A run that takes a fraction of a second: two blobs of points, two blocks."""

from __future__ import annotations

from typing import Any

import numpy as np

from layerline.data.arrays import from_arrays
from layerline.data.dataset import Dataset
from layerline.run import Run


def tiny_data() -> Dataset:
    draw = np.random.default_rng(0)
    labels = np.arange(120) % 3
    points = (draw.normal(size=(120, 6)) + 3 * np.eye(6)[labels]).astype(np.float32)
    return from_arrays(points[:90], labels[:90], points[90:], labels[90:], name="blobs")


def tiny_run(**changes: Any) -> Run:
    settings: dict[str, Any] = {
        "preset": "tiny",
        "network": {"kind": "mlp", "widths": [8, 8]},
        "labels": {"position": "append"},
        "epochs": 2,
        "batch_size": 30,
        "precision": "32-true",
        "threads": 1,
    }
    return Run.from_dict(settings | changes)
