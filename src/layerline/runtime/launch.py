"""Starting the processes of a run on this machine, and starting them again when one is lost.

PyTorch's elastic launcher starts the workers, watches them, and ends all when one ends badly. What it cannot know is
what an exit status means: a worker that was killed or lost a peer is started again, with all others, from the finished
slots; one that refuses (other data, a full disk, a wrong setting) ends the run with its message; a stop on request
is no failure. Asked to stop, workers have a while to save themselves (`STOP_SECONDS`).

The store that the workers meet at is ours, on the loopback interface; the launcher's own facts stay in a file.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from layerline.errors import LayerlineError, Stopped
from layerline.runtime.members import STORE, stop_seconds
from layerline.runtime.stop import STATUS, Stop, handling
from layerline.transport.rendezvous import serve_store

ERRORS = "LAYERLINE_ERRORS"
"""Set for the workers: the folder that each leaves its error in, for the launcher to report."""
LOST = 75
"""Exit status of a worker that can go on when it is started again."""
_LOG_LEVEL = {"TORCH_CPP_LOG_LEVEL": "ERROR"}  # what went wrong is said once, by us
_ENDED = (LOST, 130, 143)  # by themselves, or by the launcher because another was lost


def launch(
    command: Sequence[str], processes: int, folder: Path, *, restarts: int, stop: Stop, kept: str = "finished slots"
) -> None:
    """Run `python -m layerline COMMAND` in so many processes, until all have ended well.

    Starts them again, at most `restarts` times, after one was killed or lost; `kept`: from what. Stopped after Ctrl-C
    or SIGTERM, or when asked to before the processes start; LayerlineError with what the first of them had to say.
    """
    for generation in range(restarts + 1):
        with tempfile.TemporaryDirectory(prefix="layerline-") as scratch, _quiet():
            store = serve_store()
            ours = {STORE: f"127.0.0.1:{store.port}", ERRORS: scratch}
            patience = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(math.ceil(stop_seconds()))}
            with _environment(ours | patience | _LOG_LEVEL):
                failed = _started(command, processes, Path(scratch), folder, stop, kept)
            if not failed:
                return
            reports = {rank: _report(Path(scratch), rank) for rank in range(processes)}
            refusals = [report for report in reports.values() if report[1] and report[0] not in (LOST, 130)]
            if refusals:
                refusal = LayerlineError(refusals[0][1])
                refusal.exit_status = refusals[0][0]
                raise refusal
            lost = f"a worker ended ({', '.join(map(_how, failed))})"
            if any(status > 0 and status not in _ENDED for status in failed) or generation == restarts:
                said = [text for _, text in reports.values() if text]
                why = f": {said[0].splitlines()[0]}" if said else ""
                raise LayerlineError(f"{lost}{why}", hint=f"what is finished is kept: layerline resume {folder}")
            print(f"{lost}; going on from the {kept}", file=sys.stderr)


def _started(command: Sequence[str], processes: int, scratch: Path, folder: Path, stop: Stop, kept: str) -> list[int]:
    """Start and wait. The exit statuses of those that failed (negative: a signal); none if all ended well."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint=str(scratch / "rendezvous"),
        rdzv_configs={"store_type": "file"},
        local_addr="127.0.0.1",
        max_restarts=0,
        monitor_interval=0.1,
        signals_to_handle="",  # ours do, see below
    )
    try:
        with _raising(stop):
            if stop.exit_status is None:
                elastic_launch(config, sys.executable)("-m", "layerline", *command)
    except ChildFailedError as error:
        return [failure.exitcode for failure in error.failures.values()]
    except SignalException:
        pass
    if stop.exit_status is not None:
        what, hint = f"training was stopped; it can go on from the {kept}", f"go on with: layerline resume {folder}"
        raise Stopped(what, exit_status=stop.exit_status, hint=hint)
    return []


@contextmanager
def _raising(stop: Stop) -> Iterator[None]:
    """Signals set `stop` and end the workers by SIGTERM, from the first moment on.

    Left to the elastic launcher, a Ctrl-C before it has started the workers would be lost, one after they have ended
    would be an error, and workers that still import PyTorch would each show where Ctrl-C found them.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        stop.exit_status = STATUS.get(signal.Signals(number), 1)
        raise SignalException("stopped", sigval=signal.SIGTERM)

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name)]
    with handling(numbers, handle):
        yield


def _how(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"status {status}"


def leave_error(error: LayerlineError) -> bool:
    """In a worker: leave an error for the launcher to report. False where there is no launcher."""
    folder = os.environ.get(ERRORS)
    if folder is None:
        return False
    text = f"{error.exit_status}\n{error}"
    Path(folder, f"{os.environ['RANK']}.txt").write_text(text, encoding="utf-8")
    return True


def _report(scratch: Path, rank: int) -> tuple[int, str]:
    """The exit status and the error of a worker; an empty text if it left none."""
    path = scratch / f"{rank}.txt"
    if not path.exists():
        return 0, ""
    status, _, text = path.read_text(encoding="utf-8").partition("\n")
    return int(status), text


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Variables for the workers to inherit."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _quiet() -> Iterator[None]:
    """The elastic launcher's own reports are for its developers; ours are printed, not logged."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
