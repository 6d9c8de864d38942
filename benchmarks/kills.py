"""A soak: random kills of random workers, spread over short runs of several schedules. Nothing lost, same bits.

For every run: train it undisturbed in one process, then over several processes while workers (now and then the launcher
with all of them) are killed by SIGKILL at moments drawn from a seed, going on until it ends; compare the weights.

    python benchmarks/kills.py [--kills 50] [--runs 10] [--seed 0]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from layerline.api import train
from layerline.run import Run

BASE: dict[str, Any] = {
    "dataset": "digits",
    "network": {"kind": "mlp", "widths": [32, 32, 32]},
    "labels": {"strength": 3.0, "position": "append"},
    "order": "chapters",
    "epochs": 60,
    "batch_size": 32,
    "precision": "32-true",
    "threads": 1,
    "device": "cpu",
}
RUNS: list[tuple[str, int, float, dict[str, Any]]] = [
    (
        "all-layers, int8, adaptive",
        3,
        0.2,
        {
            "schedule": {"kind": "all-layers"},
            "nodes": 3,
            "codec": {"kind": "int8"},
            "negatives": {"kind": "adaptive"},
        },
    ),
    (
        "single-layer, adaptive, the launcher every time",
        3,
        1.0,
        {"schedule": {"kind": "single-layer"}, "nodes": 3, "negatives": {"kind": "adaptive"}},
    ),
    ("all-layers, random", 3, 0.2, {"schedule": {"kind": "all-layers"}, "nodes": 3}),
    (
        "all-layers, adaptive",
        2,
        0.2,
        {"schedule": {"kind": "all-layers"}, "nodes": 3, "negatives": {"kind": "adaptive"}},
    ),
    ("all-layers, int8", 3, 0.2, {"schedule": {"kind": "all-layers"}, "nodes": 3, "codec": {"kind": "int8"}}),
    (
        "single-layer, sampled",
        3,
        0.2,
        {"schedule": {"kind": "single-layer"}, "nodes": 3, "negatives": {"kind": "sampled"}},
    ),
    (
        "single-layer, head",
        4,
        0.2,
        {"schedule": {"kind": "single-layer"}, "nodes": 4, "readout": {"kind": "softmax"}},
    ),
    ("federated, averaged", 3, 0.2, {"schedule": {"kind": "federated", "average": True}, "nodes": 3}),
    ("dff", 3, 0.2, {"schedule": {"kind": "dff", "batch": "mini"}, "nodes": 3, "send_optimizer_state": False}),
]
"""Name, processes, share of the kills that hit the launcher with all workers, settings."""


def workers(launcher: int) -> list[int]:
    """The processes that a launcher started."""
    try:
        return [int(pid) for pid in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()]
    except OSError:
        return []


def disturbed(
    run: Run, processes: int, kills: int, launchers: float, draw: random.Random, folder: Path
) -> tuple[str, int]:
    """Train with so many kills, a share `launchers` of them of everybody; the weights' digest, and how many kills there
    were before the end."""
    (folder / "run.toml").write_text(run.to_toml(), encoding="utf-8")
    first = ["train", str(folder / "run.toml"), "--out-dir", str(folder / "run")]
    again = ["resume", str(folder / "run")]
    done, words = 0, first
    while True:
        command = [sys.executable, "-m", "layerline", *words, "--processes", str(processes), "--restarts", "100"]
        launcher = subprocess.Popen([*command, "--quiet", "--format", "json"], stdout=subprocess.PIPE)
        while launcher.poll() is None and done < kills:
            _wait_for_work(launcher, folder / "run" / "slots", draw.uniform(0.1, 1.5))
            victims = workers(launcher.pid)
            if launcher.poll() is None and victims:
                everybody = draw.random() < launchers
                for pid in [launcher.pid, *victims] if everybody else [draw.choice(victims)]:
                    os.kill(pid, signal.SIGKILL)
                done += 1
                if everybody:
                    break
        out, _ = launcher.communicate(timeout=300)
        if launcher.returncode == 0:
            return str(json.loads(out)["weights_sha256"]), done
        words = again if (folder / "run" / "config.toml").exists() else first


def _wait_for_work(launcher: subprocess.Popen[bytes], slots: Path, seconds: float) -> None:
    """Until a slot is finished after now, and so long beyond that."""
    before, until = _finished(slots), time.monotonic() + 60
    while launcher.poll() is None and _finished(slots) == before and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(seconds)


def _finished(slots: Path) -> int:
    return sum(path.stat().st_size for path in slots.glob("*.jsonl")) if slots.exists() else 0


def main() -> None:
    """Kill and compare; exit status 1 if a run ended with other bits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw, total, wrong = random.Random(arguments.seed), 0, 0
    table = Table(title="Killed workers")
    for column in ("run", "processes", "kills", "seconds", "same bits"):
        table.add_column(column)
    for number, (name, processes, launchers, settings) in zip(
        range(arguments.runs), itertools.cycle(RUNS), strict=False
    ):
        run = Run.from_dict(BASE | settings | {"seed": number})
        expected = train(run).values["weights_sha256"]
        wanted = -(-(arguments.kills - total) // (arguments.runs - number))
        with tempfile.TemporaryDirectory() as folder:
            begin = time.monotonic()
            found, kills = disturbed(run, processes, wanted, launchers, draw, Path(folder))
        total, wrong = total + kills, wrong + (found != expected)
        same = "yes" if found == expected else "NO"
        table.add_row(name, str(processes), str(kills), f"{time.monotonic() - begin:.0f}", same)
        print(f"{name}: {kills} kills, same bits: {same}", file=sys.stderr)
    Console(width=140).print(table)
    print(f"{total} kills over {arguments.runs} runs, {wrong} with other bits")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
