"""The link that `benchmarks/links.py` measures over: what it delays, and that nothing of it stays."""

from __future__ import annotations

import socket
import subprocess
import sys
import time

import pytest
from shaped_link import ADDRESSES, Delay, Shape, link, why_not

ANSWER = """
import socket
server = socket.create_server(("ADDRESS", 7))
print("there", flush=True)
way, _ = server.accept()
while packet := way.recv(1000):
    way.sendall(packet)
"""
ASK = """
import socket, time
way = socket.create_connection(("ADDRESS", 7), timeout=20)
begin = time.monotonic()
way.sendall(b"?")
assert way.recv(1) == b"?"
print(time.monotonic() - begin)
"""


@pytest.fixture(scope="module")
def root() -> None:
    """Skipped where there are no namespaces to be had."""
    refused = why_not()
    if refused:
        pytest.skip(refused)


def namespaces() -> str:
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout


def test_packets_keep_their_order_and_come_no_sooner() -> None:
    (give, source), (target, take) = (socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2))
    with give, source, target, take:
        take.settimeout(20)
        Delay(source.fileno(), target.fileno(), 0.05)
        sent = []
        for number in range(20):
            sent.append(time.monotonic())
            give.send(b"%d" % number)
        for number, begin in enumerate(sent):
            assert take.recv(100) == b"%d" % number
            assert time.monotonic() - begin >= 0.05
        give.shutdown(socket.SHUT_WR)


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("delay", [0.0, 0.03])
def test_two_ends_reach_each_other_and_are_gone_afterwards(delay: float) -> None:
    with link(Shape("slow", "100mbit", delay)) as (here, there):
        run = [*there, sys.executable, "-c", ANSWER.replace("ADDRESS", ADDRESSES[1])]
        with subprocess.Popen(run, stdout=subprocess.PIPE, text=True) as answering:
            assert answering.stdout
            assert answering.stdout.readline() == "there\n"
            ask = ASK.replace("ADDRESS", ADDRESSES[1])
            said = subprocess.run([*here, sys.executable, "-c", ask], capture_output=True, text=True, check=True)
        assert float(said.stdout) >= 2 * delay
        names = [words[3] for words in (here, there)]
        assert all(name in namespaces() for name in names)
    assert not any(name in namespaces() for name in names)


@pytest.mark.usefixtures("root")
def test_nothing_stays_after_a_failure() -> None:
    with pytest.raises(KeyboardInterrupt), link(Shape("slow", None, 0.01)) as ends:
        raise KeyboardInterrupt
    assert not any(words[3] in namespaces() for words in ends)
    with pytest.raises(RuntimeError, match="no such rate"), link(Shape("wrong", "no such rate")):
        raise AssertionError("made")
    assert ends[0][3] not in namespaces()
