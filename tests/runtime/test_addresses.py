"""Processes that listen where others cannot reach them are told so before they wait for each other."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerline.errors import UsageError
from layerline.runtime.addresses import Listener, own_address, refuse_unreachable
from runtime.members_by_hand import SMALL, free_port
from runtime.test_processes import environment

HERE, THERE = Listener("a", "1", "10.0.0.1"), Listener("b", "2", "10.0.0.2")


def test_a_machine_that_listens_on_its_loopback_interface_only() -> None:
    lost = Listener("a", "1", "127.0.0.1")
    refuse_unreachable([HERE, HERE, THERE])
    refuse_unreachable([lost, lost])
    for ranks in ([lost, THERE], [lost, HERE, THERE]):
        with pytest.raises(
            UsageError, match=r"rank 0 on a listens on 127\.0\.0\.1, where rank \d on b cannot"
        ) as error:
            refuse_unreachable(ranks)
        assert "--local-addr" in str(error.value.hint)
    with pytest.raises(UsageError, match="rank 1 on b listens on ::1"):
        refuse_unreachable([HERE, Listener("b", "2", "::1")])


def test_the_way_to_oneself_by_a_name() -> None:
    """What Debian's /etc/hosts does to a machine's own name."""
    assert own_address("127.0.1.1").startswith("127.")


@pytest.fixture
def machines() -> Iterator[list[str]]:
    """How to start a program on each of two machines, which see each other at 10.213.7.1 and 10.213.7.2."""
    ip = shutil.which("ip")
    names = ["layerline-test-0", "layerline-test-1"]
    if ip is None or any(subprocess.run([ip, "netns", "add", name], capture_output=True).returncode for name in names):
        pytest.skip("only the superuser may add network namespaces")

    def call(*words: str) -> None:
        subprocess.run([ip, *words], check=True, capture_output=True)

    try:
        try:
            call("link", "add", "veth0", "netns", names[0], "type", "veth", "peer", "veth1", "netns", names[1])
        except subprocess.CalledProcessError:
            pytest.skip("this system has no virtual cables")
        for number, name in enumerate(names):
            call("-n", name, "link", "set", "lo", "up")
            call("-n", name, "addr", "add", f"10.213.7.{number + 1}/24", "dev", f"veth{number}")
            call("-n", name, "link", "set", f"veth{number}", "up")
        yield [f"{ip} netns exec {name}" for name in names]
    finally:
        for name in names:
            call("netns", "delete", name)


STORE = """
import sys
from torch.distributed import TCPStore

store = TCPStore("0.0.0.0", int(sys.argv[1]), None, True, wait_for_workers=False)
sys.stdin.read()
"""


@pytest.mark.parametrize("by_address", [True, False])
def test_two_machines(by_address: bool, machines: list[str], tmp_path: Path) -> None:
    """The first calls itself by a name that is its loopback interface; the second knows its address."""
    port = str(free_port())
    common = {"WORLD_SIZE": "2", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "by-hand", "LAYERLINE_JOIN": "30"}
    common |= {
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "RES_OPTIONS": "timeout:1 attempts:1",
    }  # nobody knows names there
    started = []
    for rank, machine in enumerate(machines):
        address = "127.0.1.1" if rank == 0 and not by_address else "10.213.7.1"
        words = [*machine.split(), sys.executable, "-m", "layerline", *SMALL, "--out-dir", f"{rank}", "--quiet"]
        own = environment() | common | {"RANK": str(rank), "MASTER_ADDR": address}
        started.append(subprocess.Popen(words, cwd=tmp_path, env=own, stderr=subprocess.PIPE, text=True))
    serve = [*machines[0].split(), sys.executable, "-c", STORE, port]
    with subprocess.Popen(serve, stdin=subprocess.PIPE) as agent:
        ended = [(process.communicate(timeout=100)[1], process.returncode) for process in started]
        agent.communicate(timeout=20)
    if by_address:
        assert [status for _, status in ended] == [0, 0], ended
        return
    for said, status in ended:
        assert status == 2
        assert "rank 0 on" in said
        assert "listens on 127.0." in said
        assert "--local-addr ADDRESS" in said
