"""Two network namespaces with a link between them, of a chosen rate and delay. Needs root.

    rate          the kernel's token bucket (`tc … tbf`) on what leaves each namespace
    no delay      a pair of virtual cards (veth)
    a delay       two tun devices, and a process that brings every packet from one to the other so much later: many
                  kernels have no `netem`. It delays whatever goes over the link, PyTorch's own process groups as well,
                  and takes some of a core: one packet is up to 64 kB.

Both namespaces and everything in them are gone when the `with` block ends, also by Ctrl-C or SIGTERM; after `kill -9`
two of them are left (ip netns list), and their names in /etc/netns.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ADDRESSES = ("10.213.77.1", "10.213.77.2")
_HOSTS = Path("/etc/netns")
"""Where `ip netns exec` finds a namespace's own `/etc/hosts`: no name server can be reached from there, and PyTorch
asks for the names of its peers."""
_NAMES = f"127.0.0.1 localhost\n{ADDRESSES[0]} one\n{ADDRESSES[1]} two\n"
_PACKET = 65_000  # bytes of a packet over tun devices, at most
_NEWNET = 0x40000000
_SETIFF, _TUN, _NO_HEADER = 0x400454CA, 0x0001, 0x1000


@dataclass(frozen=True)
class Shape:
    """What a link is like. `rate` as `tc` writes it: "100mbit"; None: as fast as it goes. `delay`: seconds one way."""

    name: str
    rate: str | None = None
    delay: float = 0.0

    @property
    def burst(self) -> str:
        """What may go at once after a rest: some milliseconds of the rate, and one packet at least."""
        return "128kb" if self.delay else "256kb" if self.rate and "g" in self.rate else "32kb"


def why_not() -> str | None:
    """A sentence where namespaces or shaped links cannot be made here."""
    if os.geteuid():
        return "network namespaces need root"
    try:
        with link(Shape("a trial", "1gbit", 0.001)):
            return None
    except (OSError, RuntimeError) as error:
        return f"no shaped link between namespaces: {error}"


@contextmanager
def link(shape: Shape) -> Iterator[list[list[str]]]:
    """For each of the two ends the words to put before a command. RuntimeError where the kernel refuses."""
    names = [f"layerline-{os.getpid()}-{end}" for end in (0, 1)]
    relay: subprocess.Popen[bytes] | None = None
    try:
        for name in names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
            (_HOSTS / name).mkdir(parents=True)
            (_HOSTS / name / "hosts").write_text(_NAMES)
        if shape.delay:
            relay = _relay(names, shape.delay)
        else:
            first, second = (("name", "wire", "netns", name) for name in names)
            _ip("link", "add", *first, "type", "veth", "peer", *second)
        for name, address in zip(names, ADDRESSES, strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "wire")
            _ip("-n", name, "link", "set", "wire", "up")
            if shape.rate:
                bucket = ("rate", shape.rate, "burst", shape.burst, "latency", "50ms")
                _done(["tc", "-n", name, "qdisc", "add", "dev", "wire", "root", "tbf", *bucket])
        yield [["ip", "netns", "exec", name] for name in names]
    finally:
        if relay:
            relay.kill()
            relay.communicate()
        for name in names:
            shutil.rmtree(_HOSTS / name, ignore_errors=True)
            with suppress(RuntimeError):
                _ip("netns", "delete", name)


def _relay(names: Sequence[str], delay: float) -> subprocess.Popen[bytes]:
    """Start the process that delays; it says when its devices are there."""
    command = [sys.executable, __file__, *names, str(delay)]
    relay = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert relay.stdout
    if relay.stdout.readline() != b"ready\n":
        said = relay.communicate()[1].decode().strip().splitlines()
        raise RuntimeError(f"tun devices: {said[-1] if said else 'none'}")
    return relay


def _ip(*words: str) -> None:
    _done(["ip", *words])


def _done(words: Sequence[str]) -> None:
    ended = subprocess.run(words, capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(words)}: {ended.stderr.strip()}")


# The process that delays ---------------------------------------------------------------------------------------------


def device(namespace: str) -> int:
    """A tun device `wire` in a namespace. The process is in that namespace afterwards."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{namespace}") as where:
        if libc.setns(where.fileno(), _NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(descriptor, _SETIFF, struct.pack("16sH", b"wire", _TUN | _NO_HEADER))
    subprocess.run(["ip", "link", "set", "wire", "mtu", str(_PACKET)], check=True)
    return descriptor


class Delay:
    """Packets from one descriptor to another, each `seconds` after it came, in their order."""

    def __init__(self, source: int, target: int, seconds: float) -> None:
        self._source, self._target, self._seconds = source, target, seconds
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._changed = threading.Condition()
        for loop in (self._read, self._write):
            threading.Thread(target=loop, daemon=True).start()

    def _read(self) -> None:
        with suppress(OSError):  # closed
            while packet := os.read(self._source, 2**16):
                with self._changed:
                    self._waiting.append((time.monotonic() + self._seconds, packet))
                    self._changed.notify()

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                due, packet = self._waiting.popleft()
            time.sleep(max(0.0, due - time.monotonic()))
            with suppress(OSError):  # the other device is not up yet: a lost packet
                os.write(self._target, packet)


def main() -> None:
    """NAMESPACE NAMESPACE SECONDS: delay packets between them until the parent is gone."""
    *names, seconds = sys.argv[1:]
    os.nice(-20)  # a late packet would be a longer delay than was asked for
    first, second = (device(name) for name in names)
    Delay(first, second, float(seconds))
    Delay(second, first, float(seconds))
    print("ready", flush=True)
    gone = select.poll()
    gone.register(sys.stdout, select.POLLERR | select.POLLHUP)
    gone.poll()


if __name__ == "__main__":
    main()
