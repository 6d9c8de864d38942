"""Throughput of local learning and of backprop over two nodes, as the link between them gets slower.

    python benchmarks/links.py --seeds 0 1 2 [--plot docs/results/links.svg]      as root; an hour
    python benchmarks/links.py --ways DGL DDP --links loopback 100mbit --seeds 0 --steps 30
    python benchmarks/links.py --table --markdown                                 what there is; nothing is run

Each node is a process on one thread in a network namespace of its own (this is what needs root), and on a core of its
own where there are as many; `shaped_link` makes the link between them. `loopback` is both processes on the host's own
loopback interface. What is compared, always the same images a step:

    DGL                  dgl-cifar10's network (64-128-128-256-256), reach 1: activations forward
    DGL, coded           the same with vector-quantised activations (4 channels, 128 codes), a 9th of the bytes
    interlocking         the same with reach 2: activations forward, one gradient back
    backprop, ours       the same with reach all, by the plan of streams (1F1B): activations forward, gradients back
    1F1B                 the same by PyTorch's pipeline schedule
    DDP                  the same by PyTorch's DDP: gradients of all weights, both ways
    PFF                  another network (4 × 1000), data of MNIST's size, All-Layers: blocks and moments, once an epoch
    DGL, one node        for comparison: nothing crosses a link
    backprop, one node   likewise

Each way has the microbatches that it is fastest with of 1, 2 and 4: whole minibatches with reach 1, where they follow
each other anyway, two parts with reach 2, four with backprop. Images mean nothing, and accuracy is not looked at: a way
to learn that needs more epochs may still lose. Throughput is that of steps in the middle of a run, from the end of the
first recorded ones to the last (of PFF and of one node: of the whole run). MB a step is what both nodes' interfaces
sent, everything included, also the finished blocks' way home. A run is repeated for every seed, all ways and links
before the next; cells are the median, and in brackets the lowest and the highest.

With --delay-ms a packet takes so long from one node to the other, each way. Every run is kept as a file in --results,
and is not done again unless its flags have changed. Namespaces and processes are gone at the end, also after Ctrl-C.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from kept_cells import Results, parser_of, show
from links_report import lines, plot, sentence
from shaped_link import ADDRESSES, Shape, link, why_not

CHAPTERS, CHAPTER_IMAGES = 8, 60_000
"""Of PFF: a slot of MNIST's size, which is what hides a transfer."""
STREAM = ("dgl-cifar10", "--checkpoint-seconds", "3600")
LOCAL = (*STREAM, "--reach", "1")
PARTS = ("--microbatches", "4")
WAYS: dict[str, tuple[str, ...]] = {
    "DGL": LOCAL,
    "DGL, coded": (*LOCAL, "--boundary", "vq", "--dims", "4", "--codes", "128"),
    "interlocking": (*STREAM, "--reach", "2", "--microbatches", "2"),
    "backprop, ours": (*STREAM, "--reach", "all", *PARTS),
    "1F1B": (*STREAM, "--reach", "all", "--method", "1f1b", *PARTS),
    "DDP": (*STREAM, "--reach", "all", "--method", "ddp"),
    "PFF": ("pff-mnist", "--schedule", "all-layers", "--widths", "1000,1000,1000,1000"),
    "DGL, one node": LOCAL,
    "backprop, one node": (*STREAM, "--reach", "all", "--method", "plain"),
}
_ALONE = "one node"
_PATIENCE = 300.0  # seconds for a run


@dataclass(frozen=True)
class Cell:
    """A run of the table; `seed` counts repetitions."""

    way: str
    shape: Shape
    seed: int
    steps: int
    batch: int

    @property
    def name(self) -> str:
        """Also of its file."""
        return f"{self.way.replace(',', '')} {self.shape.name.replace(',', '')} seed-{self.seed}"

    @property
    def nodes(self) -> int:
        """Nodes, and processes."""
        return 1 if _ALONE in self.way else 2

    @property
    def words(self) -> list[str]:
        """Of `layerline train`, without the data."""
        own = [*WAYS[self.way], "--nodes", str(self.nodes), "--seed", str(self.seed), "--threads", "1"]
        if self.way == "PFF":
            return [*own, "--epochs", str(CHAPTERS), "--chapters", str(CHAPTERS)]
        return [*own, "--max-steps", str(self.steps), "--batch-size", str(self.batch)]

    @property
    def flags(self) -> list[str]:
        """What makes it this run."""
        return [*self.words, str(self.shape)]


def wanted(given: argparse.Namespace) -> list[Cell]:
    """All runs of a repetition, then those of the next. One node crosses no link: it is run on loopback only."""
    late = Shape(f"1gbit, {given.delay_ms:g} ms", "1gbit", given.delay_ms / 1000)
    shapes = [late if name == "delay" else Shape(name, None if name == "loopback" else name) for name in given.links]
    return [
        Cell(way, shape, seed, given.steps, given.batch)
        for seed in given.seeds
        for way in given.ways
        for shape in shapes
        if _ALONE not in way or shape.name == "loopback"
    ]


def measured(cell: Cell, data: tuple[Path, Path]) -> dict[str, Any]:
    """Images a second, MB a step, and each node's busy seconds. RuntimeError with what the processes said."""
    made = nullcontext(None) if cell.shape.name == "loopback" else link(cell.shape)
    with tempfile.TemporaryDirectory() as folder, made as ends:
        words = [*cell.words, "--dataset", str(data[cell.way == "PFF"]), "--out-dir", str(Path(folder) / "run")]
        values = _run(words, ends or [[]] * cell.nodes, ADDRESSES[0] if ends else "127.0.0.1", Path(folder))
        found = {name: values.get(name) for name in ("train_seconds", "busy_seconds", "idle_seconds")}
        trace = Path(folder) / "run" / "trace.json"
        if cell.way == "PFF":
            images = CHAPTER_IMAGES * CHAPTERS / values["train_seconds"]
        elif cell.nodes == 1:
            images = cell.batch * cell.steps / values["train_seconds"]
        else:
            images = cell.batch * steps_a_second(json.loads(trace.read_text(encoding="utf-8")))
        sent = [int(_said([*end, "cat", "/sys/class/net/wire/statistics/tx_bytes"])) for end in ends or []]
    steps = CHAPTERS if cell.way == "PFF" else cell.steps
    return found | {"images_per_second": images, "megabytes_a_step": sum(sent) / steps / 1e6 if sent else None}


def steps_a_second(trace: dict[str, Any]) -> float:
    """From the end of the first steps that were recorded, when the pipeline is full, to the last."""
    ends: dict[int, float] = {}
    for event in trace["traceEvents"]:
        step = re.search(r", step (\d+)", event["name"])
        if event["ph"] == "X" and event["tid"] == 0 and step:
            number = int(step[1])
            ends[number] = max(ends.get(number, 0.0), event["ts"] + event["dur"])
    numbers = sorted(ends)
    first = next((one for one, other in itertools.pairwise(numbers) if other > one + 1), numbers[0])
    return 1e6 * (numbers[-1] - first) / (ends[numbers[-1]] - ends[first])


def _run(words: Sequence[str], ends: Sequence[Sequence[str]], address: str, folder: Path) -> dict[str, Any]:
    """`result.json` of a run over processes, each behind the words of its end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"MASTER_ADDR": address, "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "links", "OMP_NUM_THREADS": "1"}
    if len(ends) > 1:
        common["WORLD_SIZE"] = str(len(ends))
    command = [sys.executable, "-m", "layerline", "train", *words, "--quiet"]
    processes: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack:
        said = [stack.enter_context((folder / f"{rank}.err").open("wb")) for rank in range(len(ends))]
        stack.callback(_end, processes)
        for rank, (end, file) in enumerate(zip(ends, said, strict=True)):
            variables = os.environ | common | ({"RANK": str(rank)} if len(ends) > 1 else {})
            pinned = _pinned(rank)
            processes.append(subprocess.Popen([*end, *pinned, *command], env=variables, stdout=file, stderr=file))
        until = time.monotonic() + _PATIENCE
        while any(process.poll() is None for process in processes) and time.monotonic() < until:
            if any(process.poll() for process in processes):
                time.sleep(5)  # for the other to notice
                break
            time.sleep(0.05)
    if any(process.returncode for process in processes):
        errors = [
            line for file in said for line in Path(file.name).read_text().splitlines() if line.startswith("error")
        ]
        raise RuntimeError("; ".join(dict.fromkeys(errors)) or f"it did not end within {_PATIENCE:g} s")
    values: dict[str, Any] = json.loads((folder / "run" / "result.json").read_text(encoding="utf-8"))
    return values


def _pinned(rank: int) -> list[str]:
    cores = sorted(os.sched_getaffinity(0))
    return ["taskset", "-c", str(cores[rank])] if len(cores) > 1 else []


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()


def _said(words: Sequence[str]) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def made_up(folder: Path, steps: int, batch: int) -> tuple[Path, Path]:
    """Images that mean nothing: in colour, as many as there are steps for, and grey for the perceptron."""
    draw = np.random.default_rng(0)
    paths = folder / "colour.npz", folder / "grey.npz"
    for path, count, shape in zip(paths, (steps * batch, CHAPTER_IMAGES), ((3, 32, 32), (1, 28, 28)), strict=True):
        images, labels = draw.integers(0, 256, (count, *shape), np.uint8), np.arange(count) % 10
        np.savez(path, x_train=images, y_train=labels, x_test=images[:50], y_test=labels[:50])
    return paths


def complete(cells: Sequence[Cell], results: Results, given: argparse.Namespace) -> int:
    """Run what is missing. What goes wrong is said and left out: how many did."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        data = made_up(Path(folder), given.steps, given.batch)
        for number, cell in enumerate(cells, 1):
            if results.find(cell):
                continue
            try:
                found = measured(cell, data)
            except (RuntimeError, OSError, ValueError, KeyError, subprocess.CalledProcessError) as error:
                failed += 1
                said = f"{error!r}"
            else:
                results.keep(cell, found)
                said = f"{found['images_per_second']:.1f} images a second"
            print(f"{number}/{len(cells)} {cell.name}: {said}", file=sys.stderr, flush=True)
    return failed


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end it as Ctrl-C does, so that nothing is left."""

    def end(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main() -> None:
    """Measure, print, draw."""
    parser = parser_of(__doc__, "links-results")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--links", nargs="+", default=["loopback", "1gbit", "100mbit", "delay"])
    parser.add_argument("--delay-ms", type=float, default=20.0, help="of the link `delay`, which has 1 Gbit/s")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=128, help="images a step (not of PFF: 64)")
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    if given.steps < 30:
        parser.error("--steps: at least 30, or no step is left between the first and the last recorded ones")
    cells, results, failed = wanted(given), Results(given.results), 0
    try:
        with ended_by_signals():
            if not given.table:
                refused = why_not() if set(given.links) != {"loopback"} else None
                if refused:
                    parser.exit(1, f"error: {refused}\n  without them: --links loopback\n")
                failed = complete(cells, results, given)
    except KeyboardInterrupt:
        parser.exit(130, "stopped; namespaces and processes are gone, finished runs are kept\n")
    found = [(cell.way, cell.shape.name, result) for cell in cells if (result := results.find(cell))]
    show(lines(found), given.markdown)
    print(sentence(found))
    if given.plot:
        plot(found, given.plot)
    if failed:
        parser.exit(1, f"error: {failed} runs failed; the others are kept, and the same command tries again\n")


if __name__ == "__main__":
    main()
