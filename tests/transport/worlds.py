"""Every implementation of the transport, as three connected nodes in this process: what the contract suite runs on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from layerline.transport.base import Endpoint, Transport
from layerline.transport.codecs import Bf16, Fp32, Int8
from layerline.transport.in_process import InProcess
from layerline.transport.process_group import ProcessGroup
from layerline.transport.rendezvous import join_store, serve_store

NODES = 3
LINKS = [(source, to) for source in range(NODES) for to in range(NODES) if source != to]
World = Callable[..., AbstractContextManager[list[Endpoint]]]


@contextmanager
def in_process(
    codec: Fp32 | Bf16 | Int8, *, shared: Path | None = None, delay: float = 0.0
) -> Iterator[list[Endpoint]]:
    with InProcess(NODES, codec=codec, timeout=20.0, delay=delay) as transport:
        yield [transport.at(node) for node in range(NODES)]


def ranks(*placement: int) -> World:
    """The nodes on several ranks, connected by real sockets."""

    @contextmanager
    def world(codec: Fp32 | Bf16 | Int8, *, shared: Path | None = None, delay: float = 0.0) -> Iterator[list[Endpoint]]:
        store = serve_store()

        def connect(rank: int) -> Transport:
            own = join_store("127.0.0.1", store.port)  # a client blocks while it waits
            return ProcessGroup(
                *(own, rank, placement, LINKS),
                plan="ab" * 32,
                codec=codec,
                timeout=20.0,
                silence=20,
                shared=shared,
                delay=delay,
            )

        with ThreadPoolExecutor(NODES) as pool:
            transports = list(pool.map(connect, range(max(placement) + 1)))
            try:
                yield [transports[rank].at(node) for node, rank in enumerate(placement)]
            finally:
                list(pool.map(lambda transport: transport.close(), transports))

    return world


WORLDS: dict[str, World] = {"in process": in_process, "three ranks": ranks(0, 1, 2), "two ranks": ranks(0, 1, 0)}
