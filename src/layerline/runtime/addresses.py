"""Where a process listens, and whether the others reach it there.

Problem: a machine whose name stands for its loopback interface (127.0.1.1 in /etc/hosts, as on Debian) finds its way to
itself by that name, and listens where only itself can come. Solution: all say where they are and listen, before anybody
connects.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from layerline.errors import UsageError

BY_ADDRESS = (
    "call the first machine by its address, not by its name: torchrun --local-addr ADDRESS on that machine "
    "(with --master-addr instead of a rendezvous: --master-addr ADDRESS on all)"
)


@dataclass(frozen=True)
class Listener:
    """A process that others are to connect to."""

    name: str
    """The machine's."""
    loopback: str
    """The same in two processes exactly if they share a loopback interface."""
    address: str
    """Where it listens."""

    @classmethod
    def here(cls, address: str) -> Listener:
        """This process, listening on `address`."""
        name, boot = socket.gethostname(), Path("/proc/sys/kernel/random/boot_id")
        with suppress(OSError):  # containers of one machine may have an interface of their own each
            return cls(name, boot.read_text().strip() + os.readlink("/proc/self/ns/net"), address)
        return cls(name, name, address)


def own_address(peer: str) -> str:
    """This machine's address on the way to `peer`; no packet is sent."""
    with suppress(OSError), socket.socket(socket.AF_INET6 if ":" in peer else socket.AF_INET, socket.SOCK_DGRAM) as way:
        way.connect((peer, 9))
        return str(way.getsockname()[0])
    return "127.0.0.1"


def refuse_unreachable(ranks: Sequence[Listener]) -> None:
    """UsageError where a rank listens on the loopback interface of its machine, and another is elsewhere."""
    for rank, one in enumerate(ranks):
        for other, another in enumerate(ranks):
            if one.loopback != another.loopback and ipaddress.ip_address(one.address).is_loopback:
                raise UsageError(
                    f"rank {rank} on {one.name} listens on {one.address}, where rank {other} on {another.name} cannot "
                    "reach it: the name that the processes meet under stands for the loopback interface there",
                    hint=BY_ADDRESS,
                )
