"""Backprop as PyTorch computes it over processes: the losses and weights of plain backprop, whoever is killed."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from layerline import api
from layerline.errors import UsageError
from layerline.stream_run import StreamRun
from runtime.members_by_hand import Member, free_port, members
from runtime.stream.test_stream_nodes import wait_for_snapshot
from runtime.test_processes import end, start, workers

CONV: dict[str, Any] = {
    "kind": "stream",
    "dataset": "digits",
    "reach": "all",
    "network": {"kind": "conv", "widths": [4, 6, 6, 6], "classifier": "linear"},
    "optimizer": {"kind": "sgd", "lr": 0.05},
    "epochs": 2,
    "batch_size": 200,
    "microbatches": 4,
    "precision": "32-true",
    "threads": 1,
    "device": "cpu",
    "augment": {"shift": 1},
}
"""1,438 examples: the last minibatch of an epoch has 38, in parts of 10, 10, 10 and 8."""
RESNET = CONV | {"network": {"kind": "resnet", "depth": 20, "width": 0.25}, "max_steps": 3, "smoothing": 0.1}
TEXT: dict[str, Any] = {
    "kind": "stream",
    "reach": "all",
    "network": {"kind": "transformer", "depth": 4, "width": 16, "attention_heads": 2, "context": 8, "dropout": 0.2},
    "head": {"kind": "unembedding"},
    "optimizer": {"kind": "adamw", "lr": 0.01},
    "epochs": 1,
    "batch_size": 16,
    "microbatches": 4,
    "precision": "32-true",
    "threads": 1,
    "device": "cpu",
}
"""Of the text below the last minibatch has two windows, for four microbatches: with DDP the second copy has none."""
CASES = {
    "gpipe": (CONV, "gpipe", 2, 4),
    "1f1b, three nodes, bfloat16": (CONV | {"precision": "bf16-mixed"}, "1f1b", 3, 3),
    "interleaved, four stages on two nodes": (CONV, "interleaved-1f1b", 2, 4),
    "zero bubbles": (CONV, "zero-bubble", 2, 4),
    "zero bubbles, residual blocks": (RESNET, "zero-bubble", 2, 4),
    "zero bubbles, a text": (TEXT, "zero-bubble", 2, 4),
    "ddp": (CONV, "ddp", 2, 2),
    "ddp, a text": (TEXT, "ddp", 2, 2),
}
IN_PROC = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers in /proc")


def described(folder: Path, settings: dict[str, Any], **more: Any) -> tuple[StreamRun, str]:
    """The run, and a file that says it."""
    if "dataset" not in settings:
        text = folder / "text.txt"
        text.write_text("What says the sea, little shell? What says the sea? " * 17, encoding="utf-8")
        settings = settings | {"dataset": str(text)}
    run, file = StreamRun.from_dict(settings | more), folder / "run.toml"
    file.write_text(run.to_toml(), encoding="utf-8")
    return run, str(file)


def plain(run: StreamRun) -> api.Result:
    """The same sums in one process."""
    return api.train(run.replace(method="plain", nodes=1, microbatches=run.parts))


def by_hand(folder: Path, *words: str, processes: int = 2) -> dict[str, Any]:
    """The result of a command in several processes, started as torchrun does: they need not import PyTorch first."""
    first, *others = members(*(Member((*words, "--format", "json"), folder) for _ in range(processes)))
    assert [first.status, *(other.status for other in others)] == [0] * processes, first.err
    result: dict[str, Any] = json.loads(first.out)
    return result


@pytest.mark.parametrize("case", CASES)
def test_losses_and_weights_are_those_of_plain_backprop(case: str, tmp_path: Path) -> None:
    """What is left out with DDP are batch norm's running statistics: the first copy's."""
    settings, method, nodes, microbatches = CASES[case]
    run, file = described(tmp_path, settings, method=method, nodes=nodes, microbatches=microbatches)
    result = by_hand(tmp_path, "train", file, "--out-dir", str(tmp_path / "run"), processes=nodes)
    expected = plain(run)
    bits = run.precision == "bf16-mixed"
    with (tmp_path / "run/metrics.csv").open(encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table))
    losses, told = [row.loss for row in expected.rows], [float(row["loss"]) for row in rows]
    assert told == pytest.approx(losses, rel=2e-3 if bits else 1e-5)
    assert [row["block"] for row in rows] == [row.block for row in expected.rows]
    theirs, ours = api.load(tmp_path / "run").state_dict(), expected.model.state_dict()
    for name, tensor in ours.items():
        if method != "ddp" or ("running" not in name and "num_batches" not in name):
            torch.testing.assert_close(theirs[name], tensor, rtol=1e-4, atol=2e-2 if bits else 1e-5, msg=name)
    _refuse_wrong_trace(tmp_path / "run", run)
    assert result["method"] == method
    assert result["processes"] == nodes
    assert result["bytes_sent"] > 0
    assert 0 < result["utilisation"] <= 1


def _refuse_wrong_trace(folder: Path, run: StreamRun) -> None:
    """Every row of PyTorch's lists is there for every recorded step, in its order on its node; and it is drawn."""
    events = json.loads((folder / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    bars = sorted((e for e in events if e["ph"] == "X"), key=lambda e: e["ts"])
    kind = "copy" if run.method == "ddp" else "stage"
    steps = sorted({int(bar["name"].split("step ")[1].split(",")[0]) for bar in bars})
    assert steps[-1] == max(steps)
    for node in range(1, run.nodes + 1):
        mine = [bar for bar in bars if bar["pid"] == node]
        assert all(one["ts"] + one["dur"] <= other["ts"] + 1 for one, other in pairwise(mine)), "one after the other"
        first = [bar["name"].split(", ") for bar in mine if f", step {steps[0]}," in bar["name"]]
        marks = [row[-1] for row in first]
        assert marks.count("forward") == run.microbatches * len({row[0] for row in first})
        assert marks.count("backward") + marks.count("gradient of the weights") == marks.count("forward")
        assert marks[-1] == "update"
        assert {row[0].split(" ")[0] for row in first} == {kind}
        assert len(mine) == len(first) * len(steps)
    shown = (folder / "gantt.svg").read_text(encoding="utf-8")
    for said in ("<!-- measured ", "<!-- planned ", f"backprop, {run.method}", f"<!-- {kind} 1 -->"):
        assert said in shown


@IN_PROC
@pytest.mark.timeout(300)  # two starts of processes that import much
@pytest.mark.parametrize(
    ("method", "which", "nodes"), [("1f1b", 1, 2), *(pytest.param("ddp", 0, n, marks=pytest.mark.slow) for n in (2, 3))]
)
def test_killed_then_interrupted_then_resumed(method: str, which: int, nodes: int, tmp_path: Path) -> None:
    """kill -9 of a worker, then Ctrl-C, then resume: nothing of it shows in the result."""
    settings = {"method": method, "nodes": nodes, "microbatches": 2, "epochs": 20, "checkpoint_seconds": 0.05}
    run, file = described(tmp_path, CONV, **settings)
    folder = tmp_path / "run"
    launcher = start("train", file, "--out-dir", str(folder), "--quiet")
    wait_for_snapshot(folder, 5)
    os.kill(workers(launcher.pid)[which], signal.SIGKILL)
    wait_for_snapshot(folder, 60)
    launcher.send_signal(signal.SIGINT)
    _, err = end(launcher, status=130)
    assert err.count("going on from the last checkpoint") == 1
    assert f"go on with: layerline resume {folder}" in err
    result = by_hand(tmp_path, "resume", str(folder), processes=nodes)
    if method == "ddp":  # rounds otherwise than plain backprop, but always in the same way
        expected = by_hand(tmp_path, "train", file, "--out-dir", str(tmp_path / "other"), processes=nodes)[
            "weights_sha256"
        ]
    else:
        expected = plain(run).values["weights_sha256"]
    assert result["weights_sha256"] == expected


@IN_PROC
@pytest.mark.slow
def test_a_peer_that_stops_is_lost(tmp_path: Path) -> None:
    """A stopped process (SIGSTOP) says nothing: the other gives up after LAYERLINE_SILENCE, and a launcher that may not
    start anew tells why."""
    _, file = described(tmp_path, CONV, method="1f1b", nodes=2, epochs=200, checkpoint_seconds=0.05)
    folder = tmp_path / "run"
    launcher = start("train", file, "--out-dir", str(folder), "--quiet", "--restarts", "0")
    wait_for_snapshot(folder, 5)
    os.kill(workers(launcher.pid)[1], signal.SIGSTOP)
    _, err = end(launcher, status=1)
    assert "another process of the run said nothing for too long" in err
    assert f"what is finished is kept: layerline resume {folder}" in err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reach": 1}, "--method 1f1b is backprop, whose gradient reaches all blocks, and this run has --reach 1"),
        ({"nodes": 1}, "--method 1f1b divides the work among nodes"),
        ({"nodes": 5, "microbatches": 5}, "5 nodes for a stream through 4 blocks"),
        ({"nodes": 3, "microbatches": 2}, "1F1B keeps every node busy with a microbatch: 2 do not do for 3 nodes"),
        ({"method": "plain"}, "plain backprop is one process that computes everything"),
        ({"method": "zero-bubble", "microbatches": 5}, "shares out 5 microbatches among 2 nodes in 2 rounds"),
        ({"method": "interleaved-1f1b", "nodes": 3, "microbatches": 3}, "3 nodes make 6, of 4 blocks"),
        ({"method": "ddp", "microbatches": 101}, "200 examples do not make 202 microbatches"),
        ({"method": "ddp", "speeds": [1, 2]}, "DDP gives every node as much to do"),
        ({"codec": {"kind": "bf16"}}, "PyTorch's own, which sends tensors as they are"),
        ({"batch_size": 199, "microbatches": 100}, "a microbatch would be one example"),
    ],
)
def test_what_a_method_cannot_do(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    """One error each, before a folder is made."""
    described_as = CONV | {"method": "1f1b", "nodes": 2} | settings
    with pytest.raises(UsageError, match=message):
        api.train(
            StreamRun.from_dict(described_as), out_dir=tmp_path / "run", processes=described_as["nodes"], restarts=0
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("processes", [1, 3])
def test_every_node_has_a_process(processes: int, tmp_path: Path) -> None:
    run = StreamRun.from_dict(CONV | {"method": "gpipe", "nodes": 2})
    with pytest.raises(UsageError, match="carried out by a process for every node"):
        api.train(run, out_dir=tmp_path / "run", processes=processes)


def test_a_method_is_no_part_of_a_run_that_has_none() -> None:
    """Runs from before there were methods keep their digest."""
    run = StreamRun.from_dict(CONV)
    assert "method" not in run.to_dict()
    assert run.digest() != run.replace(method="plain").digest()


OWN = """
import sys
from torch import manual_seed, nn
import layerline
from small_runs import small_data

manual_seed(0)
network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
network[1].weight.requires_grad_(False)
settings = dict(dataset="small", reach="all", optimizer={"lr": 0.05}, epochs=1, batch_size=16, threads=1, device="cpu")
divided = dict(method=sys.argv[1], nodes=int(sys.argv[2]), precision="32-true")
run = layerline.StreamRun.from_dict(settings | divided)
try:
    layerline.train(run, data=small_data(count=37, classes=3, shape=(1, 8, 8)), network=network, out_dir=sys.argv[3])
except layerline.LayerlineError as error:
    sys.exit("has done its part" not in str(error))
"""


@pytest.mark.slow  # three processes that import much
@pytest.mark.timeout(300)
def test_ddp_of_modules_of_ones_own_with_some_weights_frozen(tmp_path: Path) -> None:
    """It waited for the gradients of those, and ended in an assertion."""
    script = str(tmp_path / "own.py")
    Path(script).write_text(OWN, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    for words in ([*torchrun, script, "ddp", "2"], [script, "plain", "1"]):
        ended = subprocess.run(
            [sys.executable, *words, tmp_path / words[-2]], env=environment, capture_output=True, text=True, timeout=150
        )
        assert ended.returncode == 0, ended.stderr
    ours, theirs = (load_file(tmp_path / name / "model/model.safetensors") for name in ("plain", "ddp"))
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
