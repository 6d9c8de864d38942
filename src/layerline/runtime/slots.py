"""Finished slots on disk: durable facts that a killed run goes on from.

    slots/plan.json                    whose they are: digests of run, data and plan
    slots/00000042.safetensors         the result of row 42: a block as its readers got it, with the moments; or labels
    slots/node-1.jsonl                 what node 1 did and measured: one line a row, kept when the file above goes
    slots/data-1.json                  digest of the data of node 1, where it has its own

Problem: a worker may die at any moment, and the others may be far ahead of it or behind. Solution: a row's result is
on disk, whole, before it is noted as done. Starting again means: rows that are noted are done, others are computed
again, to the same bits, whoever has received them already.
No pickle: safetensors and JSON only.
"""

from __future__ import annotations

import json
import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, uint8

from layerline.errors import CheckpointError, LayerlineError
from layerline.files import replacing, sweep, write_text

FORMAT = 1


class Slots:
    """The folder `slots/` of one run. `identity`: what the run, its data and its plan are recognised by."""

    def __init__(self, folder: Path, identity: dict[str, str]) -> None:
        self.folder = folder
        facts = {"format": FORMAT} | identity
        recorded = folder / "plan.json"
        if not recorded.exists():
            write_text(recorded, json.dumps(facts, indent=2) + "\n")
            return
        try:
            found: Any = json.loads(recorded.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{recorded} cannot be read: {error}") from None
        for name, value in facts.items():
            if not isinstance(found, dict) or found.get(name) != value:
                raise CheckpointError(
                    f"the finished slots in {folder} are of another {name}",
                    hint="resume with the settings and data it was started with, or start a new run",
                )

    def hold(self, node: int, digest: str) -> None:
        """Note which data of its own a node trains on. CheckpointError where it began with other data."""
        path = self.folder / f"data-{node}.json"
        if not path.exists():
            write_text(path, json.dumps({"digest": digest}) + "\n")
            return
        try:
            recorded = json.loads(path.read_text(encoding="utf-8"))["digest"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from None
        if recorded != digest:
            raise CheckpointError(
                f"node {node + 1} has other data than it began with",
                hint="give it back the data it was started with, or start a new run",
            )

    def done(self, node: int) -> set[int]:
        """The rows of a node that are noted as done; a result that nothing needs any more may have been deleted."""
        return {facts["row"] for facts in self.told(node) if facts["durable"]}

    def save(self, row: int, tensors: dict[str, Tensor]) -> None:
        """Make a result durable. LayerlineError on a full disk: what was there before stays."""
        path = self._path(row)
        apart = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        try:
            with replacing(path) as beside:
                save_file(apart, beside, {"crc32": _checksum(apart)})
        except SafetensorError as error:
            raise LayerlineError(
                f"cannot write {path}: {error}", hint="what was finished is kept: layerline resume RUN_DIR"
            ) from None

    def load(self, row: int) -> dict[str, Tensor]:
        """A result, bit for bit. CheckpointError if it is missing or damaged."""
        path = self._path(row)
        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                recorded = (file.metadata() or {}).get("crc32")
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"the finished slot {path} cannot be read: {error}", hint=_ANEW) from None
        if recorded != _checksum(tensors):
            raise CheckpointError(f"the finished slot {path} is damaged: its checksum is wrong", hint=_ANEW)
        return tensors

    def has(self, row: int) -> bool:
        """Whether a result is still here."""
        return self._path(row).exists()

    def drop(self, row: int) -> None:
        """Delete a result that nothing needs any more."""
        self._path(row).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Delete what killed processes left half written."""
        sweep(self.folder)

    def tell(self, node: int, facts: dict[str, Any]) -> None:
        """Note what a node did: at least `row`, and whether it left a `durable` result."""
        try:
            with (self.folder / f"node-{node}.jsonl").open("a", encoding="utf-8") as file:
                file.write("\n" + json.dumps(facts) + "\n")  # the line before may have been cut short
                if facts["durable"]:
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            raise LayerlineError(
                f"cannot write {self.folder}: {error.strerror}", hint="free some space, then: layerline resume RUN_DIR"
            ) from None

    def told(self, node: int) -> list[dict[str, Any]]:
        """What a node noted. A line cut short by a kill is left out."""
        path = self.folder / f"node-{node}.jsonl"
        facts = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
            with suppress(ValueError):
                facts.append(json.loads(line))
        return facts

    def _path(self, row: int) -> Path:
        return self.folder / f"{row:08d}.safetensors"


_ANEW = "start a new run; or delete the folder slots/, and this one begins anew"


def _checksum(tensors: dict[str, Tensor]) -> str:
    """CRC-32 over names and bytes: against bad disks, not against people."""
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(name.encode(), value)
        value = zlib.crc32(tensors[name].contiguous().view(-1).view(uint8).numpy().data, value)
    return f"{value:08x}"
