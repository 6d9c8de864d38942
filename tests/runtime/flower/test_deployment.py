"""Flower for real: a SuperLink, SuperNodes and the app between them, all on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr")

SMALL = ["--nodes", "2", "--epochs", "3", "--chapters", "3", "--widths", "24,24", "--threads", "1", "--quiet"]


def train(folder: Path, *flags: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "layerline", "train", "federated-digits", "--out-dir", str(folder), *SMALL, *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    values: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return values


def test_flower_and_torch_end_with_the_same_weights(tmp_path: Path) -> None:
    torch = train(tmp_path / "torch")
    flower = train(tmp_path / "flower", "--engine", "flower")
    assert torch["processes"] == 2
    assert flower["engine"] == "flower"
    assert flower["weights_sha256"] == torch["weights_sha256"]
    assert flower["test_accuracy"] == torch["test_accuracy"]
    assert flower["bytes_sent"] > 0
    assert all(up > 0 for up in flower["bytes_up"])
    assert sum(flower["participant_examples"]) == 1438
