"""Real processes with real sockets: each runs one function of a test module and prints what came of it.

    together(module, "ring", ranks=3)   →   [the JSON each rank printed]

A rank that ends with a LayerlineError prints {"error": its class, "what": its text} instead.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from layerline.errors import LayerlineError
from layerline.transport.rendezvous import join_store, serve_store

LIMIT = 40.0  # seconds for one set of processes
SOURCE = Path(__file__).parents[2] / "src"

Job = Callable[[TCPStore, int, int, dict[str, Any]], Any]


def start(file: str, job: str, ranks: int, port: int, **options: Any) -> list[subprocess.Popen[str]]:
    """Start rank 0 … ranks − 1 of `job(store, rank, ranks, options)` in the module `file`."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SOURCE)}
    return [
        subprocess.Popen(
            [sys.executable, __file__, file, job, str(rank), str(ranks), str(port), json.dumps(options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(ranks)
    ]


def finish(processes: list[subprocess.Popen[str]]) -> list[Any]:
    """What every process printed; None for one that was killed."""
    try:
        ended = [process.communicate(timeout=LIMIT) for process in processes]
    finally:
        for process in processes:
            process.kill()
    results = []
    for process, (out, err) in zip(processes, ended, strict=True):
        assert process.returncode in (0, -9), err
        results.append(json.loads(out.splitlines()[-1]) if process.returncode == 0 else None)
    return results


def together(file: str, job: str, ranks: int, **options: Any) -> list[Any]:
    store = serve_store()
    return finish(start(file, job, ranks, store.port, **options))


def _main() -> None:
    file, job, rank, ranks, port, options = sys.argv[1:]
    sys.path.insert(0, str(Path(file).parents[1]))
    specification = importlib.util.spec_from_file_location("jobs", file)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    try:
        store = join_store("127.0.0.1", int(port), timeout=20)
        result = getattr(module, job)(store, int(rank), int(ranks), json.loads(options))
    except LayerlineError as error:
        result = {"error": type(error).__name__, "what": error.what}
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    _main()
