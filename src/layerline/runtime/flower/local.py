"""A SuperLink and its SuperNodes as processes of this machine, on loopback, for one run.

    this process ─┬─ flower-superlink ── flwr-serverapp: the server, with the run's folder
                  ├─ SuperNode 1 ── its executor: node 1, with FOLDER/participants/…
                  ├─ SuperNode 2 …
                  └─ flwr run: hands the app in, and ends

It is the real thing, without certificates: nothing listens on another interface than loopback. What Flower writes lies
in FOLDER/flower, its home included.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

import tomli_w

from layerline.errors import LayerlineError, UsageError
from layerline.run import Run
from layerline.schedules.federated import Federated

_START_SECONDS = 120.0
_END_SECONDS = 10.0
_SECONDS_BETWEEN = 0.2
_APP = "layerline.flower_app"
_GUARD = """
import os, signal, sys, time
groups = [int(line) for line in sys.stdin]
for number in signal.SIGTERM, signal.SIGKILL:
    for group in groups:
        try:
            os.killpg(group, number)
        except OSError:
            pass
    time.sleep(5.0 * (number == signal.SIGTERM and len(groups) > 0))
"""
"""A process that hears of all that are started, and ends them when it hears no more: should this one be killed."""
TIDY = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
"""Set for Flower's processes unless the user has set them: nothing is told to anybody, and nothing installed."""


def require_flower() -> None:
    """UsageError where Flower is not installed."""
    if find_spec("flwr") is None:
        raise UsageError("Flower is not installed", hint="install it with: pip install 'layerline[flower]'")


def check_flower(run: Run) -> None:
    """UsageError for runs that Flower cannot carry."""
    if not isinstance(run.schedule, Federated) or run.exchange != "chapter":
        raise UsageError(
            "Flower carries federated runs that exchange per chapter",
            hint="choose --schedule federated, or leave out --engine",
        )


def app_settings(settings: Mapping[str, str | int | float]) -> str:
    """The `pyproject.toml` of the app, with the settings it starts with."""
    flower = {
        "publisher": "layerline",
        "components": {"serverapp": f"{_APP}:server", "clientapp": f"{_APP}:client"},
        "config": dict(settings),
    }
    project = {
        "name": "layerline-federated",
        "version": "1.0.0",
        "description": "A federated run",
        "license": "Apache-2.0",
    }
    return tomli_w.dumps({"project": project, "tool": {"flwr": {"app": flower}}})


class Deployment:
    """A SuperLink and a SuperNode for every one of `nodes` node configurations; logs and Flower's home in `folder`."""

    def __init__(self, folder: Path, nodes: Sequence[Mapping[str, str | int]]) -> None:
        self.folder, self.nodes = folder, nodes
        self.port, *self._ports = free_ports(1 + len(nodes))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        """By name: `superlink`, `node-1`, `node-2`, …"""
        self._open = ExitStack()
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._guard = subprocess.Popen([sys.executable, "-c", _GUARD], stdin=subprocess.PIPE, start_new_session=True)
        home = self.folder / "home"
        home.mkdir(parents=True, exist_ok=True)
        connection = {"address": f"127.0.0.1:{self.port}"} | self.connection()
        (home / "config.toml").write_text(tomli_w.dumps({"superlink": {"default": "here", "here": connection}}))
        try:
            self.start("superlink", [flower("flower-superlink"), *self._listening(self.port), *self.superlink_flags()])
            self._wait_for(self.port, "superlink")
            for number, configuration in enumerate(self.nodes, start=1):
                self.start_node(number, configuration)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def connection(self) -> dict[str, str | bool]:
        """How Flower's command line reaches the SuperLink, besides its address."""
        return {"insecure": True}

    def superlink_flags(self) -> list[str]:
        """Of the SuperLink, besides where it listens."""
        return ["--insecure"]

    def node_flags(self, number: int) -> list[str]:
        """Of SuperNode `number`, besides whom it asks, where it listens and what it holds."""
        return ["--insecure"]

    def start_node(self, number: int, configuration: Mapping[str, str | int]) -> None:
        """SuperNode `number`, counted from 1."""
        command = [sys.executable, "-m", "layerline.runtime.flower.node", *self.node_flags(number)]
        command += ["--superlink", f"127.0.0.1:{self.port}", *self._listening(self._ports[number - 1])]
        self.start(f"node-{number}", [*command, "--node-config", words(configuration)])

    def start(self, name: str, command: Sequence[str]) -> None:
        """A process that writes to a log of its own, and leads a group that ends with it."""
        log = self._open.enter_context((self.folder / f"{name}.log").open("ab"))
        self.processes[name] = subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.environment, start_new_session=True
        )
        if self._guard and self._guard.stdin:
            self._guard.stdin.write(f"{self.processes[name].pid}\n".encode())
            self._guard.stdin.flush()

    def submit(self, settings: Mapping[str, str | int | float]) -> None:
        """Hand the app in with these settings. LayerlineError where that is refused."""
        app = self.folder / "app"
        app.mkdir(exist_ok=True)
        (app / "pyproject.toml").write_text(app_settings(settings))
        self.command("run", str(app), "here")

    def command(self, *arguments: str) -> None:
        """Flower's command line. LayerlineError with what it says where it refuses."""
        command = [flower("flwr"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment, timeout=_START_SECONDS)
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise LayerlineError(f"flwr {arguments[0]} failed: {said[-1] if said else 'it said nothing'}")

    def check(self) -> None:
        """LayerlineError where the SuperLink has ended."""
        self._reap()
        status = self.processes["superlink"].poll()
        if status is not None:
            raise LayerlineError(f"the SuperLink ended ({status})", hint=f"it wrote {self.folder / 'superlink.log'}")

    def close(self) -> None:
        """End all processes that are left, with those that they started, and wait for them."""
        groups = [process.pid for process in self.processes.values()]
        _signal(groups, signal.SIGTERM)
        until = time.monotonic() + _END_SECONDS
        while (groups := _signal(groups, None)) and time.monotonic() < until:
            self._reap()
            time.sleep(_SECONDS_BETWEEN / 4)
        _signal(groups, signal.SIGKILL)
        self._reap()
        if self._guard:
            self._guard.kill()  # nobody is left to be ended
            self._guard.communicate()
        self._open.close()

    def _reap(self) -> None:
        """Take those that have ended from the list of processes, for those that look whether they are there."""
        for process in self.processes.values():
            process.poll()

    @property
    def environment(self) -> dict[str, str]:
        """Of Flower's processes."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        return TIDY | dict(os.environ) | {"FLWR_HOME": str(self.folder / "home"), "PATH": path}

    @staticmethod
    def _listening(port: int) -> list[str]:
        return ["--host", "127.0.0.1", "--port", str(port)]

    def _wait_for(self, port: int, name: str) -> None:
        until = time.monotonic() + _START_SECONDS
        while not answers(port):
            self.check()
            if time.monotonic() > until:
                raise LayerlineError(f"{name} did not start", hint=f"it wrote {self.folder / name}.log")
            time.sleep(_SECONDS_BETWEEN)


def _signal(groups: Sequence[int], number: signal.Signals | None) -> list[int]:
    """Send a signal to groups of processes (None: nothing); those in which there was somebody."""
    found = []
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number or 0)
            found.append(group)
    return found


def flower(command: str) -> str:
    """Flower's command, as it was installed beside this Python."""
    return str(Path(sys.executable).parent / command)


def words(configuration: Mapping[str, str | int]) -> str:
    """A node's configuration as `--node-config` takes it: `partition-id=0 folder="…"`."""
    return " ".join(f"{name}={json.dumps(value)}" for name, value in configuration.items())


def answers(port: int) -> bool:
    """Whether somebody listens on loopback."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


def free_ports(count: int) -> list[int]:
    """So many ports of loopback that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]
