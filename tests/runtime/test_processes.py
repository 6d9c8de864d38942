"""Runs over several real processes: the bits of one process, whoever is killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from layerline import api
from layerline.run import Run
from layerline.runtime.needs import last_slots

BASE: dict[str, Any] = {
    "dataset": "digits",
    "network": {"kind": "mlp", "widths": [24, 20, 16]},
    "labels": {"strength": 3.0, "position": "append"},
    "order": "chapters",
    "epochs": 6,
    "batch_size": 32,
    "precision": "32-true",
    "threads": 1,
    "device": "cpu",
}
RUNS: dict[str, tuple[dict[str, Any], int]] = {
    "all-layers, adaptive by a head, two nodes in one process": (
        {
            "schedule": {"kind": "all-layers"},
            "nodes": 3,
            "negatives": {"kind": "adaptive"},
            "readout": {"kind": "softmax"},
        },
        2,
    ),
    "single-layer, ranking shared, int8": (
        {
            "schedule": {"kind": "single-layer", "ranking": "shared"},
            "nodes": 3,
            "negatives": {"kind": "sampled"},
            "codec": {"kind": "int8"},
        },
        3,
    ),
    "federated, averaged, private data": (
        {"schedule": {"kind": "federated", "average": True}, "nodes": 4, "shards": {"kind": "by-label"}},
        4,
    ),
    "FedAvg of backprop": (
        {
            "schedule": {"kind": "federated", "average": True},
            "nodes": 3,
            "objective": {"kind": "backprop"},
            "readout": {"kind": "last-head"},
        },
        2,
    ),
    "averaged after every minibatch": (
        {
            "schedule": {"kind": "federated", "average": True},
            "nodes": 4,
            "shards": {"kind": "dirichlet"},
            "exchange": "batch",
            "epochs": 2,
        },
        4,
    ),
    "minibatches in turn, adaptive by a head": (
        {
            "schedule": {"kind": "all-layers"},
            "nodes": 3,
            "negatives": {"kind": "adaptive"},
            "readout": {"kind": "softmax"},
            "exchange": "batch",
            "epochs": 2,
            "checkpoint_seconds": 0.05,
        },
        2,
    ),
    "activations handed over": ({"schedule": {"kind": "dff"}, "nodes": 2, "send_optimizer_state": False}, 2),
}


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "LAYERLINE_SILENCE": "5"}


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "layerline", *words],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str], status: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=100)
    assert process.returncode == status, err
    assert "Traceback" not in err
    return out, err


def described(folder: Path, settings: dict[str, Any]) -> tuple[Run, str]:
    """The run, and a file that says it."""
    run = Run.from_dict(BASE | settings)
    file = folder / "run.toml"
    file.write_text(run.to_toml(), encoding="utf-8")
    return run, str(file)


def workers(launcher: int) -> list[int]:
    """The processes that a launcher started."""
    try:
        return [int(pid) for pid in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()]
    except OSError:
        return []


def wait_for_slots(folder: Path, count: int) -> None:
    """Until so many rows are noted as done. Ask for few of those there are: nobody waits to be killed."""
    until = time.monotonic() + 60
    while sum(path.read_text().count('"durable": true') for path in folder.glob("slots/*.jsonl")) < count:
        assert time.monotonic() < until, "no progress"
        time.sleep(0.005)


@pytest.mark.parametrize("name", RUNS)
def test_the_bits_of_one_process(name: str, tmp_path: Path) -> None:
    settings, processes = RUNS[name]
    run, file = described(tmp_path, settings)
    alone = api.train(run)
    folder = tmp_path / "run"
    out, _ = end(start("train", file, "--out-dir", str(folder), "--processes", str(processes), "--format", "json"))
    result = json.loads(out)
    assert result["weights_sha256"] == alone.values["weights_sha256"]
    assert result["readouts"] == alone.values["readouts"]
    assert result["processes"] == processes
    assert result["bytes_sent"] == alone.values["bytes_sent"] > 0
    last = last_slots(run.schedule.plan(run.work(run.block_count, examples=1437)))
    assert len(list(folder.glob("slots/*.safetensors"))) == len(last), "nothing but the finished model stays"
    assert [row.loss for row in alone.rows] == [row.loss for row in api.resume(folder).rows]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers in /proc")
def test_killed_workers_are_started_again(tmp_path: Path) -> None:
    """kill -9 of any worker, at moments nobody chose: the launcher goes on, to the same bits."""
    run, file = described(
        tmp_path, RUNS["all-layers, adaptive by a head, two nodes in one process"][0] | {"epochs": 50}
    )
    folder, draw = tmp_path / "run", random.Random(tmp_path.name)
    launcher = start("train", file, "--out-dir", str(folder), "--processes", "3", "--format", "json")
    for slots in (draw.randint(1, 30), draw.randint(40, 70)):
        wait_for_slots(folder, slots)
        os.kill(draw.choice(workers(launcher.pid)), signal.SIGKILL)
    out, err = end(launcher)
    assert err.count("going on from the finished slots") == 2
    assert json.loads(out)["weights_sha256"] == api.train(run).values["weights_sha256"]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers in /proc")
def test_killed_while_nodes_meet_after_every_minibatch(tmp_path: Path) -> None:
    """They go on from a snapshot that all of them have, to the same bits; then all are killed, and others go on."""
    settings = RUNS["averaged after every minibatch"][0] | {"epochs": 4, "checkpoint_seconds": 0.05, "nodes": 3}
    run, file = described(tmp_path, settings)
    folder, draw = tmp_path / "run", random.Random(tmp_path.name)
    launcher = start("train", file, "--out-dir", str(folder), "--processes", "3", "--format", "json")
    wait_for_slots(folder, draw.randint(1, 10))
    os.kill(draw.choice(workers(launcher.pid)), signal.SIGKILL)
    wait_for_slots(folder, 15)
    for pid in [launcher.pid, *workers(launcher.pid)]:
        os.kill(pid, signal.SIGKILL)
    launcher.communicate()
    out, _ = end(start("resume", str(folder), "--processes", "2", "--format", "json", "--quiet"))
    assert json.loads(out)["weights_sha256"] == api.train(run).values["weights_sha256"]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers in /proc")
def test_everything_killed_and_resumed_with_another_number_of_processes(tmp_path: Path) -> None:
    run, file = described(tmp_path, RUNS["single-layer, ranking shared, int8"][0] | {"epochs": 30})
    folder = tmp_path / "run"
    launcher = start("train", file, "--out-dir", str(folder))
    wait_for_slots(folder, 10)
    gone = [launcher.pid, *workers(launcher.pid)]
    for pid in gone:
        os.kill(pid, signal.SIGKILL)
    launcher.communicate()
    second = start("resume", str(folder), "--processes", "2", "--quiet")
    wait_for_slots(folder, 20)
    second.send_signal(signal.SIGINT)
    _, err = end(second, status=130)
    assert f"go on with: layerline resume {folder}" in err
    last = api.resume(folder)
    assert last.values["weights_sha256"] == api.train(run).values["weights_sha256"]
    assert last.values["processes"] == 1


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers in /proc")
def test_a_stopped_worker_is_noticed(tmp_path: Path) -> None:
    run, file = described(tmp_path, {"schedule": {"kind": "all-layers"}, "nodes": 2, "epochs": 60})
    folder = tmp_path / "run"
    launcher = start("train", file, "--out-dir", str(folder), "--format", "json")
    wait_for_slots(folder, 10)
    os.kill(workers(launcher.pid)[0], signal.SIGSTOP)
    out, err = end(launcher)
    assert "going on from the finished slots" in err
    assert json.loads(out)["weights_sha256"] == api.train(run).values["weights_sha256"]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers in /proc")
def test_workers_do_not_outlive_their_launcher(tmp_path: Path) -> None:
    _, file = described(tmp_path, {"schedule": {"kind": "all-layers"}, "nodes": 2, "epochs": 400})
    launcher = start("train", file, "--out-dir", str(tmp_path / "run"))
    wait_for_slots(tmp_path / "run", 4)
    orphans = workers(launcher.pid)
    launcher.kill()
    _, err = launcher.communicate(timeout=60)  # until the last of them has closed it
    assert "Traceback" not in err
    assert orphans
    until = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in orphans):
        assert time.monotonic() < until, "they live on"
        time.sleep(0.1)
