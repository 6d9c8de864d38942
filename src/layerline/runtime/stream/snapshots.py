"""Snapshots: the states of all nodes after the same step, from which a stream can go on.

    checkpoints/00000120.node-1.safetensors    blocks, heads, moments, sums of the epoch
    checkpoints/00000120.node-1.json           its SHA-256, whose it is, what the node noted: it stands last

Every node writes its own part when it comes to that step, and none waits for another. So the newest step that *all*
nodes have is the snapshot to go on from; what is older can go.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from layerline.errors import CheckpointError
from layerline.files import sha256_of, write_text
from layerline.runtime.checkpoint import write_tensors
from layerline.runtime.stream.node import Noted

FORMAT = 3


class Snapshots:
    """The parts of some snapshots in a folder; `identity` says whose they are: digests of run, data and plan."""

    def __init__(self, folder: Path, identity: dict[str, str]) -> None:
        self.folder, self._whose = folder, {"format": FORMAT, **identity}

    def save(self, node: int, step: int, tensors: dict[str, Tensor], noted: Noted, whole: int) -> Path:
        """A node's part of the snapshot after so many steps. On a full disk LayerlineError, and older ones stay good.

        `whole`: the newest step that all nodes have a part of, as far as is known.
        """
        path = self._path(node, step, "safetensors")
        write_tensors(path, tensors)
        facts = self._whose | {"step": step, "sha256": sha256_of(path), "noted": noted.to_dict(), "whole": whole}
        write_text(self._path(node, step, "json"), json.dumps(facts))
        return path

    def steps(self, node: int) -> list[int]:
        """After how many steps there is a part of this node, in order. CheckpointError where it is another run's."""
        found = sorted(int(path.name.split(".")[0]) for path in self.folder.glob(f"*.node-{node + 1}.json"))
        for step in found[:1]:
            self._facts(node, step)
        return found

    def whole(self, node: int) -> int:
        """The newest step that all nodes had a part of, by what this node knew last; 0: none."""
        return max((int(self._facts(node, step)["whole"]) for step in self.steps(node)), default=0)

    def load(self, node: int, step: int, device: torch.device) -> tuple[dict[str, Tensor], Noted]:
        """A part. CheckpointError if it is damaged."""
        facts, path = self._facts(node, step), self._path(node, step, "safetensors")
        hint = "the run cannot go on from here; start it anew with: layerline train RUN_DIR/config.toml"
        try:
            if sha256_of(path) != facts["sha256"]:
                raise CheckpointError(f"{path} is damaged: its SHA-256 is not the one recorded", hint=hint)
            return load_file(path, device=str(device)), Noted.from_dict(facts["noted"])
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror or error}", hint=hint) from None
        except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{path} is damaged: {error}", hint=hint) from None

    def drop(self, node: int, steps: Iterable[int]) -> None:
        """Delete parts; the fact before the tensors, so that none is left without them."""
        for step in steps:
            self._path(node, step, "json").unlink(missing_ok=True)
            self._path(node, step, "safetensors").unlink(missing_ok=True)

    def keep_only(self, node: int, step: int) -> None:
        """Delete all other parts of a node, and what a killed process left half written."""
        for pattern in (f"*.node-{node + 1}.*", f".*.node-{node + 1}.*.part"):
            for path in self.folder.glob(pattern):
                if not path.name.startswith(f"{step:08d}."):
                    path.unlink(missing_ok=True)

    def _path(self, node: int, step: int, kind: str) -> Path:
        return self.folder / f"{step:08d}.node-{node + 1}.{kind}"

    def _facts(self, node: int, step: int) -> dict[str, Any]:
        path = self._path(node, step, "json")
        try:
            facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if not {"sha256", "noted", "whole", *self._whose} <= set(facts):
                raise ValueError("it is not complete")
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from None
        for name, what in (
            ("format", "has another format"),
            ("run", "belongs to another run: config.toml was changed since"),
            ("data", "was trained on other data"),
            ("plan", "belongs to another plan"),
        ):
            if facts[name] != self._whose[name]:
                raise CheckpointError(
                    f"the checkpoint in {self.folder} {what}",
                    hint="start a new run with these settings: layerline train RUN_DIR/config.toml",
                )
        return facts


def newest(found: Sequence[Sequence[int]], whole: int = 0) -> int:
    """The latest step that all nodes have a part of; 0: none.

    CheckpointError where there was a `whole` snapshot before, and now parts of it are not here: starting anew would
    delete the others.
    """
    step = max(set.intersection(*(set(steps) for steps in found)), default=0)
    if step < whole:
        missing = [str(node + 1) for node, steps in enumerate(found) if max(steps, default=0) < whole]
        raise CheckpointError(
            f"all nodes had saved themselves after {whole:,} steps, and the files of some are gone: node "
            + ", ".join(missing or ["?"]),
            hint="they lie where they were made: go on on the same machines, or start a new run",
        )
    return step
