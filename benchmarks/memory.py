"""Activation memory of a node, measured in real processes: streams by reach, and GPipe and 1F1B beside them.

    python benchmarks/memory.py [--nodes 1 2 4] [--microbatches 1 2 4 8] [--examples 16] [--steps 4]

Every node has a process and one block, all blocks are alike (convolutions of 32 channels on 32×32), so more nodes are a
deeper network. Two tables: microbatches of --examples examples, so that the minibatch grows with them; and, on the most
nodes, a minibatch of as many examples as the largest of those, cut finer and finer. Cells are of the node that saved
most:

    saved       bytes that autograd saved for backward passes, at their peak: every storage once, without parameters
    waiting     what had arrived from other nodes and was not used yet, at its peak
    resident    growth of the process from its first forward to the peak of its training

Numbers of a run that does not exist (1F1B with fewer microbatches than nodes, a pipeline of one node) are left out.
PyTorch's pipelines receive into buffers of their own, which count as resident only. Some 15 minutes on one core.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import socket
import sys
import tempfile
import time
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

WAYS = {
    "reach 1": ["--reach", "1", "--head", "linear"],
    "reach 2": ["--reach", "2", "--head", "linear"],
    "reach all": ["--reach", "all"],
    "GPipe": ["--reach", "all", "--method", "gpipe"],
    "1F1B": ["--reach", "all", "--method", "1f1b"],
}
_PATIENCE = 300.0  # seconds for a run
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}  # what is freed goes back


class Watch:
    """Counts what lives in this process."""

    def __init__(self) -> None:
        self.saved = self.most_saved = self.waiting = self.most_waiting = 0
        self.begin = self.most_resident = 0
        self._owners: Counter[int] = Counter()
        self._parameters: set[int] = set()

    def pack(self, tensor: Tensor) -> Tensor | Held:
        """Autograd saves a tensor."""
        storage = tensor.untyped_storage()
        if not self.begin:
            self._first()
        if storage.data_ptr() in self._parameters:
            return tensor
        held, place, size = Held(tensor), storage.data_ptr(), storage.nbytes()
        self.saved += 0 if self._owners[place] else size
        self._owners[place] += 1
        self.most_saved = max(self.most_saved, self.saved)
        weakref.finalize(held, self._gone, place, size)
        return held

    def _gone(self, place: int, size: int) -> None:
        self._owners[place] -= 1
        self.saved -= 0 if self._owners[place] else size

    def _first(self) -> None:
        import gc

        everything = [each for each in gc.get_objects() if isinstance(each, nn.Parameter)]
        self._parameters = {each.untyped_storage().data_ptr() for each in everything}
        self.begin = _memory("VmRSS")
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins here

    def arrived(self, tensors: dict[str, Tensor]) -> None:
        """A message is here."""
        self.waiting += sum(each.nbytes for each in tensors.values())
        self.most_waiting = max(self.most_waiting, self.waiting)

    def taken(self, tensors: dict[str, Tensor]) -> None:
        """A message is used."""
        self.waiting -= sum(each.nbytes for each in tensors.values())

    def stepped(self) -> None:
        """After an update."""
        self.most_resident = max(self.most_resident, _memory("VmHWM"))


class Held:
    """A saved tensor, as long as a graph holds it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def _memory(name: str) -> int:
    line = next(each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith(name))
    return 1024 * int(line.split()[1])


def member(words: list[str], variables: dict[str, str], told: Path) -> None:
    """One process of a run: the command line, under a watch."""
    os.environ.update(variables)
    quiet = os.open(told.with_suffix(".err"), os.O_WRONLY | os.O_CREAT)
    os.dup2(quiet, 2)
    os.dup2(quiet, 1)
    from layerline.cli.main import main
    from layerline.runtime.stream.stage import Stage
    from layerline.transport import base

    watch = Watch()
    put, take, update = base._Inbox.put, base._Inbox.take, Stage.update
    base._Inbox.put = _before(put, lambda box, link, key, tensors: watch.arrived(tensors))  # type: ignore[method-assign]
    base._Inbox.take = _after(take, watch.taken)  # type: ignore[method-assign]
    Stage.update = _after(update, lambda _: watch.stepped())  # type: ignore[method-assign]
    unpack: Callable[[Any], Tensor] = lambda each: each.tensor if isinstance(each, Held) else each  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(watch.pack, unpack):
        status = main(words)
    resident = max(0, watch.most_resident - watch.begin)
    found = {"saved": watch.most_saved, "waiting": watch.most_waiting, "resident": resident}
    told.write_text(json.dumps(found))
    sys.exit(status)


def _before(call: Callable[..., Any], look: Callable[..., None]) -> Callable[..., Any]:
    def both(*given: Any) -> Any:
        look(*given)
        return call(*given)

    return both


def _after(call: Callable[..., Any], look: Callable[[Any], None]) -> Callable[..., Any]:
    def both(*given: Any) -> Any:
        result = call(*given)
        look(result)
        return result

    return both


def measure(way: str, nodes: int, microbatches: int, minibatch: int, steps: int, data: Path) -> dict[str, int] | str:
    """What the node that holds most held; a sentence where there is no such run."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["layerline.api", "layerline.cli.commands.train"])
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
        probe.close()
        words = [
            "train",
            "dgl-cifar10",
            "--dataset",
            str(data),
            "--network.widths",
            ",".join(["32"] * nodes),
            *WAYS[way],
        ]
        words += ["--classifier", "linear", "--precision", "32-true", "--threads", "1"]
        words += ["--batch-size", str(minibatch), "--microbatches", str(microbatches), "--nodes", str(nodes)]
        words += ["--max-steps", str(steps), "--out-dir", str(Path(folder) / "run"), "--quiet"]
        common = {"WORLD_SIZE": str(nodes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "m"}
        files = [Path(folder) / f"{rank}.json" for rank in range(nodes)]
        processes = [
            context.Process(target=member, args=(words, common | {"RANK": str(rank)}, file))
            for rank, file in enumerate(files)
        ]
        for process in processes:
            process.start()
        until = time.monotonic() + _PATIENCE
        for process in processes:
            process.join(max(0.0, until - time.monotonic()))
        for process in processes:
            process.kill()  # nothing, if it has ended
            process.join()
        if any(process.exitcode for process in processes):
            said = [line for line in files[0].with_suffix(".err").read_text().splitlines() if line.startswith("error")]
            return said[0] if said else f"no result: {[process.exitcode for process in processes]}"
        found: list[dict[str, int]] = [json.loads(file.read_text()) for file in files]
    return max(found, key=lambda each: each["saved"])


def made_up(path: Path, count: int) -> None:
    """Images that mean nothing."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (count, 3, 32, 32), np.uint8)
    labels = np.arange(count) % 10
    np.savez(path, x_train=images, y_train=labels, x_test=images[:20], y_test=labels[:20])


def table(
    title: str, given: argparse.Namespace, counts: list[int], minibatch: Callable[[int], int], data: Path
) -> Table:
    """One of the two tables; MB."""
    shown = Table(title=title)
    shown.add_column("")
    shown.add_column("nodes", justify="right")
    for m in given.microbatches:
        shown.add_column(f"M = {m}: saved, waiting, resident", justify="right")
    for way in given.ways:
        for nodes in counts:
            cells = []
            for m in given.microbatches:
                found = measure(way, nodes, m, minibatch(m), given.steps, data)
                print(way, nodes, m, found, file=sys.stderr)
                cells.append("–" if isinstance(found, str) else ", ".join(f"{n / 1e6:.1f}" for n in found.values()))
            shown.add_row(way, str(nodes), *cells, end_section=nodes == counts[-1])
    return shown


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--microbatches", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--examples", type=int, default=16, help="in a microbatch of the first table")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    given = parser.parse_args()
    os.environ.update(_ALLOCATOR)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    whole = given.examples * max(given.microbatches)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "images.npz"
        made_up(data, whole * given.steps)
        console = Console(width=160)
        each, most = given.examples, [max(given.nodes)]
        console.print(table(f"MB, microbatches of {each} examples", given, given.nodes, lambda m: m * each, data))
        console.print(table(f"MB, minibatches of {whole} examples", given, most, lambda m: whole, data))


if __name__ == "__main__":
    main()
