"""How fast a link on the loopback interface is: messages between two nodes, as they are sent in a run.

Encoding is the sender's work and not part of it; checksums, the way through the sockets, and decoding are.
"""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import torch

from layerline.transport.base import Endpoint
from layerline.transport.codecs import Bf16, Fp32, Int8
from layerline.transport.message import Key
from layerline.transport.process_group import ProcessGroup
from layerline.transport.rendezvous import join_store, serve_store

_WARM, _TIMED = 3, 12
_PATIENCE = 30.0  # seconds for a message


def measure_link(size: int, codec: Fp32 | Bf16 | Int8) -> tuple[float, float]:
    """Bytes a second of messages of about `size` bytes before coding, and seconds that a small one takes at best."""
    store = serve_store()
    with ThreadPoolExecutor(2) as both:
        ends = [both.submit(_end, rank, store.port, max(4, size), codec) for rank in (0, 1)]
        first, _ = [end.result() for end in ends]
        return first


def _end(rank: int, port: int, size: int, codec: Fp32 | Bf16 | Int8) -> tuple[float, float]:
    """One of the two; what it measured."""
    store, links = join_store("127.0.0.1", port), [(0, 1), (1, 0)]
    with ProcessGroup(store, rank, [0, 1], links, plan="00" * 32, codec=codec, timeout=_PATIENCE) as transport:
        end = transport.at(rank)
        latency = min(_hops(end, rank, 4, 0))  # whatever else the machine does can only add
        _hops(end, rank, size, 1)
        large = [each for each in end.events if each.direction == "receive" and each.key.chapter == 1]
        rate = statistics.median(each.nbytes / max(1e-9, each.end - each.begin) for each in large[_WARM:])
        return rate, latency


def _hops(end: Endpoint, rank: int, size: int, chapter: int) -> list[float]:
    """There and back; seconds of half of it."""
    tensors, spent = {"x": torch.randn(size // 4)}, []
    for row in range(_WARM + _TIMED):
        key, begin = Key(row, "activations", 0, chapter), time.perf_counter()
        if rank:
            end.receive(key, 0)
            end.send(key, tensors, 0)
        else:
            end.send(key, tensors, 1)
            end.receive(key, 1)
        spent.append((time.perf_counter() - begin) / 2)
    return spent
