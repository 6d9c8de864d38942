"""Milliseconds per hop of a message between two processes of one host: through gloo's sockets and shared memory.

A hop is all of it: encoding, checksum, transfer, check, decoding, until `receive` returns; half of a round trip, the
best of many. Beside it the bare copy of as many bytes, which no way can beat, and the transfer alone (the span the
trace shows for the receiver, checksum and decoding included).

    python benchmarks/messages.py [--megabytes 1 16 64] [--codec fp32] [--rounds 15]

Two processes of one thread each; a minute. The best, since whatever else the machine does can only add.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from contextlib import ExitStack
from pathlib import Path

import torch
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from layerline.transport.codecs import Codec
from layerline.transport.message import Key
from layerline.transport.process_group import ProcessGroup
from layerline.transport.rendezvous import join_store, serve_store
from layerline.transport.shared_memory import shared_folder

WARM = 3  # hops that are not counted


def bounce(
    rank: int, port: int, folder: Path | None, sizes: list[float], codec: str, rounds: int, table: object
) -> None:
    """One of the two processes; rank 0 tells its best: (hop, receiver's span) of each size, milliseconds."""
    torch.set_num_threads(1)
    store = join_store("127.0.0.1", port)
    chosen: Codec = TypeAdapter(Codec).validate_python({"kind": codec})
    links = [(0, 1), (1, 0)]
    with ProcessGroup(store, rank, [0, 1], links, plan="00" * 32, codec=chosen, shared=folder) as transport:
        end = transport.at(rank)
        for stage, megabytes in enumerate(sizes):
            x = torch.randn(int(megabytes * 1e6 / 4 / 1000), 1000)
            hops = []
            for row in range(WARM + rounds):
                key = Key(row, "state", stage, 0)
                begin = time.perf_counter()
                if rank == 0:
                    end.send(key, {"x": x}, 1)
                    x = end.receive(key, 1)["x"]
                else:
                    end.send(key, end.receive(key, 0), 0)
                hops.append((time.perf_counter() - begin) * 500)
            if rank == 0:
                spans = [
                    (e.end - e.begin) * 1000 for e in end.events if e.direction == "receive" and e.key.stage == stage
                ]
                table.put((min(hops[WARM:]), min(spans[WARM:])))  # type: ignore[attr-defined]


def copies(megabytes: float, rounds: int) -> float:
    """Milliseconds of one copy into memory that is in use already."""
    source = torch.zeros(int(megabytes * 1e6), dtype=torch.uint8)
    target = source.clone()
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        target.copy_(source)
        seconds.append(time.perf_counter() - begin)
    return min(seconds) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, nargs="+", default=[0.004, 1, 16, 64])
    parser.add_argument("--codec", choices=["fp32", "bf16", "int8"], default="fp32")
    parser.add_argument("--rounds", type=int, default=30)
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    columns = []
    for shared in (False, True):
        with ExitStack() as stack:
            folder = stack.enter_context(shared_folder()) if shared else None
            store, told = serve_store(), context.Queue()
            arguments = (store.port, folder, given.megabytes, given.codec, given.rounds, told)
            processes = [context.Process(target=bounce, args=(rank, *arguments)) for rank in range(2)]
            for process in processes:
                process.start()
            columns.append([told.get(timeout=300) for _ in given.megabytes])
            for process in processes:
                process.join(60)
    torch.set_num_threads(1)
    heads = ("MB", "gloo: hop", "receiving", "shared memory: hop", "receiving", "one copy", "gloo / shared")
    table = Table(*heads, title=f"Milliseconds, {given.codec}")
    for megabytes, (gloo, span), (memory, inside) in zip(given.megabytes, *columns, strict=True):
        copy = copies(megabytes, given.rounds)
        cells = (gloo, span, memory, inside, copy, gloo / memory)
        table.add_row(f"{megabytes:g}", *(f"{cell:.2f}" for cell in cells))
    Console().print(table)


if __name__ == "__main__":
    main()
