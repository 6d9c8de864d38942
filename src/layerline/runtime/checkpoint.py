"""Checkpoints: the whole state of a training, between two minibatches.

    checkpoints/00001234.safetensors      every tensor (parameters, moments, negatives, records)
    checkpoints/latest.json               which file, its SHA-256, the cursor, what was measured so far, whose it is

`latest.json` is replaced after the tensors are on disk, and the older file is deleted after that: whenever the power
goes, one complete checkpoint is left. No pickle: safetensors and JSON only.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from layerline.errors import CheckpointError, LayerlineError
from layerline.events import Evaluated, Row
from layerline.files import replacing, sha256_of, sweep, write_text
from layerline.runtime.training import Cursor

FORMAT = 1


@dataclass
class Progress:
    """What a run has measured so far; it travels with the checkpoint."""

    train_seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)
    curve: list[Evaluated] = field(default_factory=list)


def misfit(error: Exception) -> CheckpointError:
    """For tensors that a network has no place for, or misses."""
    return CheckpointError(
        f"the checkpoint does not fit this network: {error}",
        hint="hand in the modules it was begun with; one of another version of Layerline goes on with that version",
    )


class Checkpoints:
    """The checkpoints of one run: `run_digest` and `data_digest` say whose they are."""

    def __init__(self, folder: Path, run_digest: str, data_digest: str) -> None:
        self.folder = folder
        self._whose = {"format": FORMAT, "run": run_digest, "data": data_digest}

    def save(self, tensors: dict[str, Tensor], cursor: Cursor, progress: Progress, step: int) -> Path:
        """Write a checkpoint; on a full disk LayerlineError, and the one before stays good."""
        path = self.folder / f"{step:08d}.safetensors"
        write_tensors(path, tensors)
        facts = self._whose | {
            "file": path.name,
            "sha256": sha256_of(path),
            "cursor": asdict(cursor),
            "progress": asdict(progress),
        }
        write_text(self.folder / "latest.json", json.dumps(facts))
        for old in self.folder.glob("*.safetensors"):
            if old != path:
                old.unlink(missing_ok=True)
        sweep(self.folder)
        return path

    def load(self, device: torch.device) -> tuple[dict[str, Tensor], Cursor, Progress] | None:
        """The last checkpoint, or None where there is none yet. CheckpointError if it is damaged or another run's."""
        latest = self.folder / "latest.json"
        if not latest.exists():
            return None
        facts = self._facts(latest)
        path = self.folder / str(facts["file"])
        hint = "the run cannot go on from here; start it anew with: layerline train RUN_DIR/config.toml"
        if not path.is_file():
            raise CheckpointError(f"{latest} names {path.name}, which is missing", hint=hint)
        try:
            if sha256_of(path) != facts["sha256"]:
                raise CheckpointError(f"{path} is damaged: its SHA-256 is not the one recorded", hint=hint)
            tensors = load_file(path, device=str(device))
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
        except SafetensorError as error:
            raise CheckpointError(f"{path} is not a safetensors file: {error}", hint=hint) from None
        try:
            return tensors, _cursor(facts["cursor"]), _progress(facts["progress"])
        except (TypeError, KeyError) as error:
            raise CheckpointError(f"{latest} is damaged: {error}", hint=hint) from None

    def _facts(self, latest: Path) -> dict[str, Any]:
        try:
            facts = json.loads(latest.read_text(encoding="utf-8"))
            complete = {"file", "sha256", "cursor", "progress"} | set(self._whose)
            if not isinstance(facts, dict):
                raise ValueError("not a table")
            if not complete <= set(facts):
                raise ValueError(f"no {sorted(complete - set(facts))[0]}")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{latest} cannot be read: {error}") from None
        if facts["format"] != FORMAT:
            raise CheckpointError(f"{latest} has format {facts['format']}, this version reads {FORMAT}")
        if facts["run"] != self._whose["run"]:
            raise CheckpointError(
                f"the checkpoint in {self.folder} belongs to another run: config.toml was changed since",
                hint="start a new run with these settings: layerline train RUN_DIR/config.toml",
            )
        if facts["data"] != self._whose["data"]:
            raise CheckpointError(
                f"the checkpoint in {self.folder} was trained on other data",
                hint="name the data folder it was started with: --data-dir FOLDER",
            )
        return facts


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a whole safetensors file, or leave the old one; on a full disk LayerlineError."""
    try:
        with replacing(path) as beside:
            save_file(_unshared(tensors), beside)
    except SafetensorError as error:
        raise LayerlineError(
            f"cannot write {path}: {error}", hint="the last checkpoint is whole: layerline resume RUN_DIR"
        ) from None


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, contiguous, those that share memory copied: safetensors refuses tied parameters."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        place = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return apart


def _cursor(facts: Any) -> Cursor:
    if not isinstance(facts, dict) or not all(type(value) is int for value in facts.values()):
        raise TypeError(f"the cursor is {facts}")
    return Cursor(**facts)


def _progress(facts: dict[str, Any]) -> Progress:
    rows, curve = facts["rows"], facts["curve"]
    return Progress(facts["train_seconds"], [Row(**row) for row in rows], [Evaluated(**point) for point in curve])
