"""PyTorch's own launcher, an agent on each of two "machines": folders of their own, one loopback interface."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from layerline import api
from runtime.members_by_hand import free_port
from runtime.test_processes import described, environment, wait_for_slots, workers

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers in /proc")


def agents(words: list[str], *flags: list[str], folders: list[Path]) -> list[subprocess.Popen[str]]:
    """An agent in every folder, with flags of its own."""
    common = ["--nnodes", str(len(folders)), "--nproc-per-node", "1", "--max-restarts", "5"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *common]
    return [
        subprocess.Popen(
            [*torchrun, *own, "-m", "layerline", *words],
            cwd=folder,
            env=environment() | {"LAYERLINE_JOIN": "30"},
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for folder, own in zip(folders, flags, strict=True)
    ]


@pytest.mark.parametrize("rendezvous", ["c10d", pytest.param("static", marks=pytest.mark.slow)])
def test_a_worker_of_one_agent_is_killed(rendezvous: str, tmp_path: Path) -> None:
    """Agents count restarts each for itself: their processes used to wait for each other in different generations."""
    run, file = described(tmp_path, {"schedule": {"kind": "all-layers"}, "nodes": 2, "epochs": 40})
    folders, port = [tmp_path / "a", tmp_path / "b"], free_port()
    for folder in folders:
        folder.mkdir()
    if rendezvous == "c10d":
        where = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--local-addr", "127.0.0.1"]
        flags = [where, where]
    else:
        where = ["--master-addr", "127.0.0.1", "--master-port", str(port), "--node-rank"]
        flags = [[*where, "0"], [*where, "1"]]
    draw = random.Random(tmp_path.name)
    pair = agents(["train", file, "--out-dir", "run", "--quiet"], *flags, folders=folders)
    try:
        for slots, victim in ((5, 0), (20, 1), (35, draw.randrange(2))):
            wait_for_slots(folders[victim] / "run", slots)
            os.kill(workers(pair[victim].pid)[0], signal.SIGKILL)
        said = [agent.communicate(timeout=100)[1] for agent in pair]
    finally:
        for agent in pair:
            agent.kill()
    assert [agent.returncode for agent in pair] == [0, 0], said
    (result,) = [json.loads(path.read_text()) for path in tmp_path.glob("*/run/result.json")]
    assert result["weights_sha256"] == api.train(run).values["weights_sha256"]
