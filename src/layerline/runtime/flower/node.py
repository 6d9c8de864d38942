"""`python -m layerline.runtime.flower.node`: a SuperNode whose participants stay warm, and that looks more often.

The flags are those of `flower-supernode`, and so is all that it does, but for three things: its messages are carried
out by `executor`, it asks for new ones ten times a second instead of every three seconds, and it says that it is alive
often enough to be missed after 20 seconds instead of 60.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from flwr.supercore import heartbeat
from flwr.supernode import fleet_http_connection as connection
from flwr.supernode import start_client_internal as loop
from flwr.supernode.cli.flower_supernode import flower_supernode

_SECONDS = 0.1
_PORT = "9094"
_HEARTBEAT = 10  # seconds; Flower takes no less, and misses who is silent for two of them


class _Impatient:
    """The module `time`, as far as Flower's loop uses it."""

    @staticmethod
    def sleep(seconds: float) -> None:
        """As long as was asked for, but not longer than a tenth of a second."""
        time.sleep(min(seconds, _SECONDS))


def main() -> None:
    """Start the executor, then be a SuperNode."""
    host, port = _given("--host", "127.0.0.1"), _given("--port", _PORT)
    command = [sys.executable, "-m", "layerline.runtime.flower.executor", "--runtime-api-address", f"{host}:{port}"]
    subprocess.Popen([*command, "--parent-pid", str(os.getpid())])
    setattr(loop, "time", _Impatient)  # noqa: B010, of modules that say nothing of what they import
    for module in (connection, heartbeat):
        setattr(module, "HEARTBEAT_DEFAULT_INTERVAL", _HEARTBEAT)  # noqa: B010
    sys.argv += ["--isolation", "process"]
    flower_supernode()


def _given(flag: str, otherwise: str) -> str:
    words = sys.argv
    return words[words.index(flag) + 1] if flag in words else otherwise


if __name__ == "__main__":
    main()
