"""PyTorch's process group for a method: gloo between all processes of a run, each at an address of its own.

Facts that shape it: `init_process_group("gloo")` listens wherever the host's name leads, so a backend is registered
that is the same gloo at the address we name. Every wait has a timeout (`silence`); gloo tells of a lost peer, and of
one that says nothing, by RuntimeError. On an error PyTorch's schedules print their whole list, which helps no user.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed import PrefixStore, ProcessGroupGloo, Store  # type: ignore[attr-defined]

from layerline.errors import LayerlineError, PeerLost

_BACKEND = "layerline_gloo"
_LOUD = ("torch.distributed.pipelining.schedules", "torch.distributed.pipelining.stage")
_OF_PEERS = ("gloo", "timed out", "timeout", "connection", "socket", "peer", "broken pipe")
"""Words in gloo's errors; others are not about peers."""


@contextmanager
def process_group(store: Store, rank: int, world: int, *, generation: int, host: str, silence: float) -> Iterator[None]:
    """The default group of `torch.distributed`, while inside. `silence`: seconds that any wait may take; the peers have
    been met before. PeerLost past them, and where a peer is gone."""
    if dist.is_initialized():
        raise LayerlineError(
            "this process is a member of another group of torch.distributed", hint="train in a process of its own"
        )

    def gloo(prefixed: Store, rank: int, world: int, timeout: timedelta) -> Any:
        make: Any = ProcessGroupGloo  # its options are not in torch's annotations
        options = make._Options()
        options._timeout = timeout  # what waits have that PyTorch's schedules give none
        options._devices = [make.create_device(hostname=host)]
        return make(prefixed, rank, world, options)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dist.Backend.register_backend(_BACKEND, gloo, devices=["cpu"])
    ours = PrefixStore(f"layerline/{generation}/method", store)
    with _quiet(), _told_apart():
        dist.init_process_group(_BACKEND, store=ours, rank=rank, world_size=world, timeout=timedelta(seconds=silence))
        try:
            yield
        finally:
            with suppress(RuntimeError):
                dist.destroy_process_group()


@contextmanager
def _told_apart() -> Iterator[None]:
    """PeerLost for what gloo says of lost and silent peers."""
    try:
        yield
    except LayerlineError:
        raise
    except RuntimeError as error:
        text = str(error)
        if not any(word in text.lower() for word in _OF_PEERS):
            raise
        late = "timed out" in text.lower() or "timeout" in text.lower()
        what = "said nothing for too long" if late else "was lost"
        said = re.sub(r"^\[\S+\] ", "", text.splitlines()[0])  # without the line of gloo's source
        raise PeerLost(f"another process of the run {what}: {said[:120]}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in _LOUD]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
