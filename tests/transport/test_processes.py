"""Real processes and real sockets: nobody hangs, and everybody is told who was missing."""

from __future__ import annotations

import json
import multiprocessing
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from layerline.errors import PeerLost, UsageError
from layerline.transport.rendezvous import join_store, serve_store
from layerline.transport.shared_memory import shared_folder
from transport import jobs

LIMIT = 40.0  # seconds for one set of processes
# Forked from a process that has imported everything: real processes, without the seconds every import of torch takes.
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["layerline.transport.process_group", "layerline.transport.rendezvous", "pytest"])


@dataclass
class Started:
    process: ForkServerProcess
    answer: Connection

    def result(self, expected: int = 0) -> Any:
        """What the process answered; None if it was killed."""
        told = self.answer.poll(LIMIT)
        answer = json.loads(self.answer.recv_bytes()) if told and expected == 0 else None
        self.process.join(LIMIT)
        assert self.process.exitcode == expected
        return answer

    def kill(self) -> None:
        self.process.kill()
        self.process.join(LIMIT)


@contextmanager
def started(job: str, ranks: int, **options: Any) -> Iterator[list[Started]]:
    """The processes of a job, killed at the end if they are still there."""
    store = serve_store()
    processes: list[Started] = []
    try:
        for rank in range(ranks):
            mine, theirs = FORKED.Pipe()
            process = FORKED.Process(target=jobs.main, args=(job, rank, ranks, store.port, options, theirs))
            process.start()
            theirs.close()
            processes.append(Started(process, mine))
        yield processes
    finally:
        for each in processes:
            each.kill()


def together(job: str, ranks: int, **options: Any) -> list[Any]:
    with started(job, ranks, **options) as processes:
        return [process.result() for process in processes]


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_ring_of_processes_gets_every_message_whatever_the_order(ranks: int) -> None:
    expected = [[10 * ((rank - 1) % ranks) + row for row in (4, 3, 2, 1, 0)] for rank in range(ranks)]
    assert together("ring", ranks) == expected


def test_a_ring_through_shared_memory_leaves_nothing_behind(tmp_path: Path) -> None:
    with shared_folder(tmp_path) as folder:
        assert together("ring", 2, shared=str(folder)) == [[14, 13, 12, 11, 10], [4, 3, 2, 1, 0]]
        assert [path.name for path in folder.iterdir()] == ["lock"]
    assert list(tmp_path.iterdir()) == []


def test_a_killed_peer_is_named_by_whoever_waits_for_it() -> None:
    with started("lose", 3, signal=signal.SIGKILL) as (first, gone, second):
        gone.result(expected=-signal.SIGKILL)
        waited, heard = second.result(), first.result()
    assert waited["error"] == heard["error"] == "PeerLost"
    assert "rank 1 (node 1) has closed its connection: killed or crashed" in waited["what"]
    assert "node 2 waits for the weights of block 1 in chapter 2 (row 1) from node 1" in waited["what"]
    assert "rank 2 (node 2) has ended its part" in heard["what"]


def test_a_stopped_peer_is_noticed_within_the_configured_time() -> None:
    with started("lose", 3, signal=signal.SIGSTOP) as (first, _, second):
        waited, heard = second.result(), first.result()
    assert waited["error"] == heard["error"] == "PeerLost"
    assert "rank 1 (node 1) has been silent for 2 s: stopped, hung or cut off" in waited["what"]


def test_a_message_of_another_plan_is_refused_by_name() -> None:
    refused, _ = together("other_plan", 2)
    assert refused["error"] == "MessageRefused"
    assert "rank 1 (node 1)" in refused["what"]
    assert "another plan: cdcdcdcdcdcd…, this process abababababab…" in refused["what"]


def test_processes_that_agree_go_on() -> None:
    assert together("compare", 3) == ["alike"] * 3


@pytest.mark.parametrize(
    ("odd", "what"), [({"plan": "xx"}, "another plan: xx, where rank 0, rank 2 has bb"), ({"data": "yy"}, "other data")]
)
def test_the_rank_that_differs_is_named_by_all(odd: dict[str, str], what: str) -> None:
    results = together("compare", 3, odd=odd)
    assert results == [results[0]] * 3
    assert results[0]["error"] == "LayerlineError"
    assert results[0]["what"].startswith("rank 1 has ")
    assert what in results[0]["what"]


def test_a_rank_that_never_comes_is_named_after_the_timeout() -> None:
    *present, absent = together("compare", 3, missing=2)
    assert absent == "never came"
    assert present == [{"error": "PeerLost", "what": "rank 2 did not come within 2 s"}] * 2


FORGETFUL = """
from concurrent.futures import ThreadPoolExecutor
from layerline.transport.process_group import ProcessGroup
from layerline.transport.rendezvous import join_store, serve_store
store = serve_store()
connect = lambda rank: ProcessGroup(join_store("127.0.0.1", store.port), rank, [0, 1], [(0, 1)], plan="ab" * 32)
with ThreadPoolExecutor(2) as pool:
    open_ = list(pool.map(connect, range(2)))
"""


def test_a_process_that_forgets_to_close_still_ends_well() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FORGETFUL], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_taken_port_is_a_usage_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1, port {port}: it is taken"):
            serve_store(port=port)


def test_a_foreign_address_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"cannot listen on 192\.0\.2\.1"):
        serve_store("192.0.2.1")


def test_the_store_listens_on_loopback_only() -> None:
    store = serve_store()
    other = socket.socket(socket.AF_INET)
    with other:  # a listener on all interfaces would have this address, too
        other.bind(("127.0.0.2", store.port))


def test_a_worker_without_a_launcher_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(PeerLost, match="there is no launcher at 127"):
        join_store("127.0.0.1", port, timeout=1)


def test_memory_of_a_killed_launcher_is_freed_by_the_next(tmp_path: Path) -> None:
    with started("keep_segment", 1, home=str(tmp_path)) as (launcher,):
        launcher.result(expected=-signal.SIGKILL)
    (left,) = tmp_path.iterdir()
    assert (left / "0-0-1-1").stat().st_size == 2**20
    with shared_folder(tmp_path) as mine, shared_folder(tmp_path) as beside:
        assert set(tmp_path.iterdir()) == {mine, beside}  # the killed one's is gone, a living one's is left alone
