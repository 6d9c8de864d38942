"""Throughput of local learning and of backprop over two nodes, as the link between them gets slower.

    python benchmarks/links.py [--steps 40] [--plot links.svg] [--markdown]        as root; 15 minutes or more
    python benchmarks/links.py --ways DGL DDP --links loopback 100mbit --steps 10

Each node is a process on one thread in a network namespace of its own (this is what needs root), and on a core of its
own where there are as many; `shaped_link` makes the link between them. `loopback` is both processes on the host's own
loopback interface. What is compared, always the same images a step:

    DGL             dgl-cifar10's network (64-128-128-256-256), reach 1: activations forward
    interlocking    the same with reach 2: activations forward, one gradient back
    backprop, ours  the same with reach all, by the plan of streams (1F1B): activations forward, gradients back
    1F1B            the same by PyTorch's pipeline schedule
    DDP             the same by PyTorch's DDP: gradients of all weights, both ways
    PFF             a perceptron (4 × 1000), All-Layers: blocks with Adam's moments, once a chapter (an epoch of 20,000)

Images mean nothing, and accuracy is not looked at: a way to learn that needs more epochs may still lose. Throughput is
images over `train_seconds`, the first steps included. In brackets: the fraction of the loopback's.

With --delay-ms a packet takes so long from one node to the other, each way. Everything the benchmark made is gone at
its end, also after Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from shaped_link import ADDRESSES, Shape, link, why_not

IMAGES = 2048
PFF_IMAGES, PFF_CHAPTERS = 20_000, 8
PARTS = ["--microbatches", "4"]
STREAM = ["dgl-cifar10"]
WAYS: dict[str, list[str]] = {
    "DGL": [*STREAM, "--reach", "1", *PARTS, "--window", "8"],  # two minibatches: room for the slowest link
    "interlocking": [*STREAM, "--reach", "2", *PARTS],
    "backprop, ours": [*STREAM, "--reach", "all", *PARTS],
    "1F1B": [*STREAM, "--reach", "all", "--method", "1f1b", *PARTS],
    "DDP": [*STREAM, "--reach", "all", "--method", "ddp"],
    "PFF": ["pff-mnist", "--schedule", "all-layers", "--widths", "1000,1000,1000,1000"],
}
_PATIENCE = 900.0  # seconds for a run
Found = dict[str, dict[str, float | None]]
"""Images a second by way and link; None: it did not end well."""


def run(words: Sequence[str], ends: Sequence[Sequence[str]], addresses: Sequence[str], folder: Path) -> dict[str, Any]:
    """`result.json` of a run over two processes, each behind the words of its end. RuntimeError with what they said."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": addresses[0], "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "links"}
    command = [sys.executable, "-m", "layerline", "train", *words, "--nodes", "2", "--threads", "1", "--quiet"]
    command += ["--out-dir", str(folder / "run")]
    processes: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack:
        said = [stack.enter_context((folder / f"{rank}.err").open("wb")) for rank in range(2)]
        stack.callback(_end, processes)
        for rank, (end, file) in enumerate(zip(ends, said, strict=True)):
            variables = os.environ | common | {"RANK": str(rank), "OMP_NUM_THREADS": "1"}
            pinned = _pinned(rank)
            processes.append(subprocess.Popen([*end, *pinned, *command], env=variables, stdout=file, stderr=file))
        until = time.monotonic() + _PATIENCE
        while any(process.poll() is None for process in processes) and time.monotonic() < until:
            if any(process.poll() for process in processes):
                time.sleep(5)  # for the other to notice
                break
            time.sleep(0.05)
    if any(process.returncode for process in processes):
        words_said = [line for rank in range(2) for line in (folder / f"{rank}.err").read_text().splitlines()]
        errors = [line for line in words_said if line.startswith("error")]
        raise RuntimeError((errors or words_said or ["it did not end"])[0])
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


def made_up(folder: Path) -> tuple[Path, Path]:
    """Images that mean nothing: in colour, and grey for the perceptron."""
    draw = np.random.default_rng(0)
    paths = folder / "colour.npz", folder / "grey.npz"
    for path, count, shape in zip(paths, (IMAGES, PFF_IMAGES), ((3, 32, 32), (1, 28, 28)), strict=True):
        images, labels = draw.integers(0, 256, (count, *shape), np.uint8), np.arange(count) % 10
        np.savez(path, x_train=images, y_train=labels, x_test=images[:50], y_test=labels[:50])
    return paths


def throughput(way: str, shape: Shape, data: tuple[Path, Path], steps: int, batch: int) -> float:
    """Images a second."""
    colour, grey = data
    if way == "PFF":
        words = [*WAYS[way], "--dataset", str(grey), "--epochs", str(PFF_CHAPTERS), "--chapters", str(PFF_CHAPTERS)]
        images = PFF_IMAGES * PFF_CHAPTERS
    else:
        words = [*WAYS[way], "--dataset", str(colour), "--max-steps", str(steps), "--batch-size", str(batch)]
        images = steps * batch
    made = nullcontext(None) if shape.name == "loopback" else link(shape)
    with tempfile.TemporaryDirectory() as folder, made as ends:
        addresses = ADDRESSES if ends else ("127.0.0.1", "127.0.0.1")
        values = run(words, ends or [[], []], addresses, Path(folder))
    return images / float(values["train_seconds"])


def measured(ways: Sequence[str], shapes: Sequence[Shape], steps: int, batch: int) -> Found:
    """All of them; what goes wrong is said and left out."""
    found: Found = {way: {} for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        data = made_up(Path(folder))
        for way in ways:
            for shape in shapes:
                try:
                    found[way][shape.name] = throughput(way, shape, data, steps, batch)
                except RuntimeError as error:
                    found[way][shape.name] = None
                    print(f"{way}, {shape.name}: {error}", file=sys.stderr)
                else:
                    print(f"{way}, {shape.name}: {found[way][shape.name]:.1f} images a second", file=sys.stderr)
    return found


def share(row: Mapping[str, float | None], name: str) -> float | None:
    """Of the loopback's throughput; None where one of the two is missing."""
    whole, part = row.get("loopback"), row.get(name)
    return part / whole if whole and part else None


def cells(row: Mapping[str, float | None], names: Sequence[str]) -> list[str]:
    """`123 (0.95)`."""
    said = []
    for name in names:
        images, of_it = row[name], share(row, name)
        said.append("–" if images is None else f"{images:,.0f}" + (f" ({of_it:.2f})" if of_it else ""))
    return said


def plot(found: Found, names: Sequence[str], path: Path) -> None:
    """Of each way, what is left of its throughput on the loopback interface."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for way, row in found.items():
        points = [(at, of_it) for at, name in enumerate(names) if (of_it := share(row, name)) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=way)
    axes.set_xticks(range(len(names)), names)
    axes.margins(x=0.1)
    axes.set(ylabel="throughput, of that on loopback", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    figure.savefig(path)


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--links", nargs="+", default=["loopback", "1gbit", "100mbit", "delay"])
    parser.add_argument("--delay-ms", type=float, default=20.0, help="of the link `delay`, which has 1 Gbit/s")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=128, help="images a step (not of PFF: 64)")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--markdown", action="store_true")
    given = parser.parse_args()
    late = Shape(f"1gbit, {given.delay_ms:g} ms", "1gbit", given.delay_ms / 1000)
    shapes = [late if name == "delay" else Shape(name, None if name == "loopback" else name) for name in given.links]
    names = [shape.name for shape in shapes]
    refused = why_not() if set(given.links) != {"loopback"} else None
    if refused:
        parser.exit(1, f"error: {refused}\n  without them: --links loopback\n")
    try:
        with ended_by_signals():
            found = measured(given.ways, shapes, given.steps, given.batch)
    except KeyboardInterrupt:
        parser.exit(130, "stopped; namespaces and processes are gone\n")
    table = Table(title=f"Images a second over two nodes (of loopback), {len(os.sched_getaffinity(0))} cores")
    for number, name in enumerate(["", *names]):
        table.add_column(name, justify="right" if number else "left")
    for way, row in found.items():
        table.add_row(way, *cells(row, names))
    Console(width=120).print(table)
    if given.markdown:
        print("\n".join(["| | " + " | ".join(names) + " |", "|---" * (1 + len(names)) + "|"]))
        for way, row in found.items():
            print(f"| {way} | " + " | ".join(cells(row, names)) + " |")
    if given.plot:
        plot(found, names, given.plot)


if __name__ == "__main__":
    main()
