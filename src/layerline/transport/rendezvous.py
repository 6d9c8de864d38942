"""Coming together: the store, and the check that all processes are about to do the same thing.

Problem: a worker with another version, another plan or other data must not be found out by wrong numbers an hour later.
Solution: every process writes what it has into the store, waits for all others, and compares all with all. Everybody
comes to the same verdict, so every process ends with the same error.

The store is plaintext and unauthenticated, and so are the connections made with it: it listens on the loopback
interface unless told otherwise.
"""

from __future__ import annotations

import errno
import json
import platform
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import timedelta

import torch
from torch.distributed import DistError, PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from layerline.errors import LayerlineError, PeerLost, UsageError
from layerline.transport.message import PROTOCOL

_SECONDS_BETWEEN = 0.1
"""Two attempts to connect."""


@dataclass(frozen=True)
class Facts:
    """What has to be the same in all processes for them to compute one run."""

    protocol: str
    """Version of the message format."""
    run: str
    """Digest of the frozen run."""
    plan: str
    """Digest of the plan."""
    data: str
    """Digest of the data set."""
    torch: str
    """Version of PyTorch."""
    cpu: str
    """Instruction set: sums are rounded differently on another one."""

    @classmethod
    def here(cls, *, run: str, plan: str, data: str) -> Facts:
        """The facts of this process."""
        units: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        # Beside the vectors' width, the units that matrix products in bfloat16 go to.
        flags = sorted(name for name, there in units.items() if there is True and ("bf16" in name or "amx" in name))
        cpu = " ".join([platform.machine(), torch.backends.cpu.get_cpu_capability(), *flags])
        return cls(str(PROTOCOL), run, plan, data, torch.__version__, cpu)


_CALLED = {
    "protocol": ("speaks another version of the protocol", "install the same version of Layerline on all machines"),
    "run": ("has another run", "give all processes the same preset, settings and seed"),
    "plan": ("has another plan", "give all processes the same schedule, nodes and chapters"),
    "data": ("has other data", "give all machines the same files: compare `layerline env` and the data folders"),
    "torch": ("has another PyTorch", "install the same version on all machines"),
    "cpu": ("has another instruction set", "use machines of one kind: sums would be rounded differently"),
}


def serve_store(host: str = "127.0.0.1", port: int = 0, *, timeout: float = 60.0) -> TCPStore:
    """The store of a run, in the launcher's process. `port` 0: any free one, then in `.port`. UsageError if taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        why = "it is taken" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
        raise UsageError(
            f"cannot listen on {host}, port {port}: {why}", hint="choose another port, or 0 for any that is free"
        ) from None
    port = listener.getsockname()[1]
    # A listener of our own is the only way to keep the store off the other interfaces.
    return TCPStore(
        host,
        port,
        is_master=True,
        timeout=timedelta(seconds=timeout),
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )


def join_store(host: str, port: int, *, timeout: float = 60.0) -> TCPStore:
    """A worker's connection to the store. PeerLost where there is none within `timeout` seconds."""
    found: list[TCPStore] = []

    def join() -> None:
        with suppress(DistError):
            found.append(TCPStore(host, port, is_master=False, timeout=timedelta(seconds=timeout)))

    if _answers(host, port, timeout):
        # A thread, because PyTorch waits for ever where something else listens and says nothing.
        joining = threading.Thread(target=join, name="join the store", daemon=True)
        joining.start()
        joining.join(timeout)
    if not found:
        raise PeerLost(
            f"there is no launcher at {host}, port {port}: it did not answer within {timeout:g} s",
            hint="start the launcher first, and check address and port",
        )
    return found[0]


def _answers(host: str, port: int, timeout: float) -> bool:
    """Whether anything listens there within so many seconds. PyTorch would say at length that nothing does."""
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        with suppress(OSError), socket.create_connection((host, port), until - time.monotonic()):
            return True
        time.sleep(_SECONDS_BETWEEN)
    return False


def check_peers(
    store: Store,
    rank: int,
    world: int,
    facts: Facts,
    *,
    generation: int = 0,
    timeout: float = 60.0,
) -> None:
    """Wait for all `world` processes and compare their facts; the same error in every process.

    PeerLost that names the ranks that did not come within `timeout` seconds; LayerlineError that names the ranks that
    differ and in what.
    """
    called = [f"rank {each}" for each in range(world)]
    store = PrefixStore(f"layerline/{generation}/facts", store)
    keys = [str(each) for each in range(world)]
    store.set(keys[rank], json.dumps(asdict(facts)))
    try:
        store.wait(keys, timedelta(seconds=timeout))
    except DistError:
        missing = [called[each] for each in range(world) if not store.check([keys[each]])]
        raise PeerLost(
            f"{_listed(missing)} did not come within {timeout:g} s",
            hint="start the missing ones, and check that they reach this address and port",
        ) from None
    everybody = [_read(store.get(key), called[each]) for each, key in enumerate(keys)]
    for field in fields(Facts):
        _compare(field.name, [given.get(field.name, "none") for given in everybody], called)


def _compare(name: str, values: list[str], called: Sequence[str]) -> None:
    counted = Counter(values)
    if len(counted) == 1:
        return
    # Most have it right; in doubt, rank 0 and those like it.
    usual = max(counted, key=lambda value: (counted[value], value == values[0]))
    other = next(value for value in values if value != usual)
    odd = _listed([called[each] for each, value in enumerate(values) if value == other])
    most = _listed([called[each] for each, value in enumerate(values) if value == usual])
    what, hint = _CALLED[name]
    raise LayerlineError(f"{odd} {what}: {other[:60]}, where {most} has {usual[:60]}", hint=hint)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _read(content: bytes, peer: str) -> dict[str, str]:
    try:
        given = json.loads(content)
        if isinstance(given, dict) and all(isinstance(value, str) for value in given.values()):
            return given
    except ValueError:
        pass
    raise LayerlineError(f"{peer} speaks another version of the protocol: its facts cannot be read")
