"""The BibTeX of the methods and data a run used, so that credit goes where it belongs."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from layerline.blocks.heads.ahead import AugLocalHead, ManHead
from layerline.negatives.labels import Adaptive
from layerline.objectives.descent import AdamW
from layerline.objectives.forward_forward import ForwardForward
from layerline.objectives.local_cross_entropy import LocalCrossEntropy
from layerline.objectives.losses import SymBa
from layerline.objectives.optimizer import CoolDown, Cosine
from layerline.reporting import bibliography
from layerline.reporting.bibliography import Entry
from layerline.run import Run
from layerline.runs import AnyRun
from layerline.schedules.federated import Federated
from layerline.schedules.timing import Async, Recorded
from layerline.stream_run import StreamRun
from layerline.transport.boundary import VectorQuantised


def citations(run: AnyRun) -> str:
    """BibTeX entries, the method first, then the optimizer, the data and Layerline itself."""
    used = {key: (kind, key, fields) for kind, key, fields in _used(run)}
    entries = [f"@{kind}{{{key},\n{_fields(fields)}\n}}" for kind, key, fields in used.values()]
    return "\n\n".join(entries) + "\n"


def _used(run: AnyRun) -> Iterator[Entry]:
    yield from _of_stream(run) if isinstance(run, StreamRun) else _of_chapters(run)
    if isinstance(run.rate, Cosine):
        yield bibliography.COSINE
    if run.dataset in bibliography.DATA:
        yield bibliography.DATA[run.dataset]
    yield "software", "layerline", {"title": "Layerline", "author": "{The Layerline contributors}"} | _version()


def _of_stream(run: StreamRun) -> Iterator[Entry]:
    if run.reach == 1:
        yield bibliography.DGL
    elif run.reach != "all":
        yield bibliography.INTERLOCKING
    elif run.method in bibliography.METHODS:
        yield bibliography.METHODS[run.method]
    if isinstance(run.timing, Async | Recorded) or isinstance(run.boundary, VectorQuantised):
        yield bibliography.DGL_FREELY
    if isinstance(run.boundary, VectorQuantised):
        yield bibliography.VQ
    if run.reach != "all" and isinstance(run.head, ManHead | AugLocalHead):
        yield bibliography.HEADS[run.head.kind]
    if run.network.kind in bibliography.NETWORKS:
        yield bibliography.NETWORKS[run.network.kind]
    if run.smoothing:
        yield bibliography.SMOOTHING
    if isinstance(run.optimizer, AdamW):
        yield bibliography.ADAMW


def _of_chapters(run: Run) -> Iterator[Entry]:
    objective = run.objective
    if isinstance(objective, ForwardForward):
        yield bibliography.FORWARD_FORWARD
        if isinstance(objective.loss, SymBa):
            yield bibliography.SYMBA
    local = isinstance(objective, LocalCrossEntropy)
    adaptive = objective.needs_negatives and isinstance(run.negatives, Adaptive)
    chapters = run.order == "chapters" and not objective.joins_blocks
    if local or adaptive or chapters or isinstance(run.rate, CoolDown):
        yield bibliography.PFF
    if run.beside == "fedavg" or (isinstance(run.schedule, Federated) and run.schedule.average):
        yield bibliography.FEDAVG
    if local:
        yield bibliography.MONO_FORWARD
    yield bibliography.ADAM


def _fields(fields: dict[str, str]) -> str:
    return ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())


def _version() -> dict[str, str]:
    try:
        return {"version": version("layerline")}
    except PackageNotFoundError:
        return {}
