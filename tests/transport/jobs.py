"""What the processes of these tests do.

A rank answers with what its job returns; one that ends with a LayerlineError, with {"error": its class, "what": its
text} instead.
"""

from __future__ import annotations

import json
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch.distributed import Store  # type: ignore[attr-defined]

from layerline.errors import LayerlineError
from layerline.transport.message import Key
from layerline.transport.process_group import ProcessGroup
from layerline.transport.rendezvous import Facts, check_peers, join_store
from layerline.transport.shared_memory import Outlet, shared_folder

PLAN = "ab" * 32


def key(row: int) -> Key:
    return Key(row, "weights", stage=0, chapter=row)


def around(ranks: int) -> list[tuple[int, int]]:
    """A ring's links."""
    return [(node, (node + 1) % ranks) for node in range(ranks)]


def ring(store: Store, rank: int, ranks: int, options: dict[str, Any]) -> Any:
    """Every node sends five matrices on and asks for its own five in the opposite order."""
    shared = Path(options["shared"]) if "shared" in options else None
    with ProcessGroup(
        store, rank, range(ranks), around(ranks), plan=PLAN, timeout=20, silence=10, shared=shared
    ) as all_:
        end = all_.at(rank)
        matrix = torch.empty(300, 400)
        for row in range(5):
            matrix.fill_(10 * rank + row)
            end.send(key(row), {"matrix": matrix}, (rank + 1) % ranks)
        matrix.zero_()
        before = (rank - 1) % ranks
        got = [end.receive(key(row), before)["matrix"] for row in reversed(range(5))]
    assert all(bool((tensor == tensor[0, 0]).all()) for tensor in got)
    return [tensor[0, 0].item() for tensor in got]


def lose(store: Store, rank: int, ranks: int, options: dict[str, Any]) -> Any:
    """Rank 1 hands one message on and is gone; rank 2 waits for a second one, rank 0 for what rank 2 never sends."""
    with ProcessGroup(store, rank, range(ranks), around(ranks), plan=PLAN, timeout=20, silence=2) as all_:
        end = all_.at(rank)
        if rank == 1:
            end.send(key(0), {"x": torch.ones(3)}, 2)
            store.wait(["seen"])
            os.kill(os.getpid(), options["signal"])
        if rank == 2:
            assert bool((end.receive(key(0), 1)["x"] == 1).all())
            store.set("seen", "")
        end.receive(key(1), (rank - 1) % ranks)


def other_plan(store: Store, rank: int, ranks: int, options: dict[str, Any]) -> Any:
    """Rank 1 follows another plan, and nobody has compared before."""
    plan = "cd" * 32 if rank == 1 else PLAN
    with ProcessGroup(store, rank, range(ranks), [(1, 0)], plan=plan, timeout=10, silence=2) as all_:
        if rank == 1:
            all_.at(1).send(key(0), {"x": torch.ones(3)}, 0)
        all_.at(rank).receive(key(0), 1 - rank)


def compare(store: Store, rank: int, ranks: int, options: dict[str, Any]) -> Any:
    """The check at the start; rank 1 may have other facts, the last may be missing."""
    facts = {"run": "aa", "plan": "bb", "data": "cc"} | (options.get("odd", {}) if rank == 1 else {})
    if rank == options.get("missing"):
        return "never came"
    check_peers(store, rank, ranks, Facts.here(**facts), timeout=2 if "missing" in options else 20)
    return "alike"


def keep_segment(store: Store, rank: int, ranks: int, options: dict[str, Any]) -> Any:
    """A launcher and worker in one that is killed while its folder of shared memory is in use."""
    with shared_folder(Path(options["home"])) as folder:
        assert Outlet(folder, "0-0-1").write(torch.zeros(2**20, dtype=torch.uint8)) == 1
        os.kill(os.getpid(), signal.SIGKILL)


def main(job: str, rank: int, ranks: int, port: int, options: dict[str, Any], answer: Connection) -> None:
    """The life of one process."""
    torch.set_num_threads(1)
    try:
        store = join_store("127.0.0.1", port, timeout=20)
        result = globals()[job](store, rank, ranks, options)
    except LayerlineError as error:
        result = {"error": type(error).__name__, "what": error.what}
    answer.send_bytes(json.dumps(result).encode())
