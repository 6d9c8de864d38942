"""What the cells gave, beside the paper's numbers: `tables.json` for programs and `tables.md` for people."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import layerline
from layerline.files import write_text
from layerline.presets.paper import PAPER_BATCH, PAPER_WIDTHS, QUOTED, TABLES, number, paper_speedup
from layerline.reporting.environment import describe
from layerline.reproduction.cells import CELLS, Cell, Job
from layerline.reproduction.times import Shape, expected
from layerline.run import Run

_TITLES = {"sequential": "Sequential", "single-layer": "Single-Layer", "all-layers": "All-Layers"}


@dataclass(frozen=True)
class Line:
    """A line of a table: a cell, read by one readout. Accuracies are fractions, times seconds."""

    table: int
    cell: str
    dataset: str
    model: str
    schedule: str
    nodes: int
    readout: str
    accuracies: dict[int, float]
    """By seed."""
    same_as: tuple[str, ...]
    """The cells that were run in the place of this one, where some seed is theirs: they end with the same bits."""
    accuracy: float | None
    """The mean."""
    spread: float | None
    """Standard deviation over the seeds; None with less than two."""
    paper_accuracy: float | None
    train_seconds: float | None
    """The mean."""
    processes: int | None
    planned_speedup: float | None
    planned_from: str | None
    """`measured slots` or `cost model`."""
    measured_speedup: float | None
    """Sequential's time over this one's, where several processes ran it."""
    paper_seconds: float | None
    paper_speedup: float | None


def lines_of(jobs: Sequence[Job], shapes: Mapping[str, Shape]) -> list[Line]:
    """Every line of the paper's tables. `jobs`: all cells; `shapes`: of the data sets, by name."""
    results = {(job.cell, job.seed): job.result() for job in jobs}
    runs = {job.cell: job.run for job in reversed(jobs)}
    twins = {cell: _twins(cell, runs) for cell in CELLS}
    found = {cell: [result for (of, _), result in results.items() if of == cell and result] for cell in CELLS}
    speedups = {
        cell: expected(runs[cell], shapes[runs[cell].dataset], _carried_out(cell, twins[cell], jobs))
        for cell in CELLS
        if runs[cell].is_planned
    }
    seconds = {cell: _mean([float(each["train_seconds"]) for each in found[cell]]) for cell in CELLS}
    lines = []
    for table in TABLES:
        for cell in (each for each in CELLS if table in each.tables):
            one = seconds[Cell(cell.dataset, cell.model, "sequential")]
            processes = min((int(each.get("processes", 1)) for each in found[cell]), default=None)
            plan, many = speedups.get(cell), seconds[cell]
            for readout in cell.readouts(table):
                said = number(cell.dataset, cell.model.name, cell.schedule, readout)
                given = _given([cell, *twins[cell]], readout, results)
                accuracies = {seed: accuracy for seed, (_, accuracy) in given.items()}
                lines.append(
                    Line(
                        table=table,
                        cell=cell.name,
                        dataset=cell.dataset,
                        model=cell.model.title,
                        schedule=cell.schedule,
                        nodes=runs[cell].nodes,
                        readout=readout,
                        accuracies=accuracies,
                        same_as=tuple(dict.fromkeys(by.name for by, _ in given.values() if by != cell)),
                        accuracy=_mean(list(accuracies.values())),
                        spread=statistics.stdev(accuracies.values()) if len(accuracies) > 1 else None,
                        paper_accuracy=said.accuracy / 100 if said else None,
                        train_seconds=many,
                        processes=processes,
                        planned_speedup=plan.speedup if plan else None,
                        planned_from=("measured slots" if plan.measured else "cost model") if plan else None,
                        measured_speedup=one / many if one and many and (processes or 1) > 1 else None,
                        paper_seconds=said.seconds if said else None,
                        paper_speedup=paper_speedup(cell.dataset, cell.model.name, cell.schedule),
                    )
                )
    return lines


def _given(
    cells: Sequence[Cell], readout: str, results: Mapping[tuple[Cell, int], dict[str, Any] | None]
) -> dict[int, tuple[Cell, float]]:
    """By seed, the accuracy of a readout, and whose it is: of the first cell that was run with this seed and has it."""
    return {
        seed: (by, float(result["readouts"][readout]))
        for seed in sorted({seed for _, seed in results})
        for by in reversed(cells)
        if (result := results[by, seed]) is not None and readout in result["readouts"]
    }


def _twins(cell: Cell, runs: Mapping[Cell, Run]) -> list[Cell]:
    """The other cells that end with the same bits; those of the same model first."""
    what = cell.computation(runs[cell])
    same = [each for each in CELLS if what and each != cell and each.computation(runs[each]) == what]
    return sorted(same, key=lambda each: each.model != cell.model)


def _carried_out(cell: Cell, twins: Sequence[Cell], jobs: Sequence[Job]) -> list[tuple[Run, Path]]:
    """Runs with the slots of a cell: its own, else those of its model under another schedule."""
    of_model = [cell, *(each for each in twins if each.model == cell.model)]
    for each in of_model:
        if runs := [(job.run, job.folder) for job in jobs if job.cell == each and job.run.is_planned and job.begun]:
            return runs
    return []


def write_tables(out_dir: Path, lines: Sequence[Line], command: str, jobs: Sequence[Job]) -> dict[str, Any]:
    """Write both files; returns the content of `tables.json`."""
    run = jobs[0].run
    about = {
        "command": command,
        "date": time.strftime("%Y-%m-%d"),
        "layerline": layerline.__version__,
        "epochs": run.epochs,
        "chapters": run.chapter_count,
        "seeds": sorted({job.seed for job in jobs}),
        "finished": sum(job.result() is not None for job in jobs),
        "cells": len(jobs),
        "machine": describe(threads=run.threads),
        "instead": _instead(jobs),
        "paper": "arXiv 2404.08573",
        "lines": [asdict(line) for line in lines],
    }
    write_text(out_dir / "tables.json", json.dumps(about, indent=2, ensure_ascii=False) + "\n")
    write_text(out_dir / "tables.md", markdown(about, lines))
    return about


def markdown(about: Mapping[str, Any], lines: Sequence[Line]) -> str:
    """The tables for people."""
    machine = about["machine"]
    seeds = ", ".join(map(str, about["seeds"]))
    gpu = f", {', '.join(machine['gpu'])}" if machine["gpu"] else ""
    parts = [
        f"# The PFF paper's tables at {about['epochs']} epochs",
        f"`{about['command']}`, Layerline {about['layerline']}, PyTorch {machine['torch']}, {about['date']}. "
        f"Machine: {machine['cpu']}, {machine['cores']} cores{gpu}, {machine['threads']} thread(s) a node. "
        f"{about['chapters']} chapters, seed(s) {seeds}; {about['finished']} of {about['cells']} runs finished.",
        "Accuracy: on the test set, mean ± standard deviation over the seeds. The paper's numbers are single runs of "
        "100 epochs. Speed-up: over Sequential on one node. Planned: from the plan, at slot costs that the runs "
        "measured here (≈: of the cost model), each node on a core of its own, linked as processes on one host. "
        "Measured: where several processes ran it. =: not run, but another cell that ends with the same bits.",
    ]
    if about["instead"]:
        parts.append(f"**A try, not the paper's cells:** {', '.join(about['instead'])}.")
    for table, title in TABLES.items():
        parts.append(f"## Table {table}: {title}")
        head = ["model", "schedule", "nodes", "readout", "accuracy %", "paper", "planned", "measured", "paper"]
        rows = ["| " + " | ".join(head) + " |", "|---|---|---|---|---|---|---|---|---|"]
        rows += ["| " + " | ".join(_cells(line)) + " |" for line in lines if line.table == table]
        parts.append("\n".join(rows))
        if table == 5:
            parts.append("For CIFAR-10 the paper gives one accuracy a model and does not say which schedule.")
        if table in QUOTED:
            parts.append(QUOTED[table])
    return "\n\n".join(parts) + "\n"


def _instead(jobs: Sequence[Job]) -> list[str]:
    """What is not as in the paper's cells."""
    datasets = {job.run.dataset for job in jobs if job.run.dataset != job.cell.dataset}
    networks = {getattr(job.run.network, "widths", ()) for job in jobs} - {PAPER_WIDTHS}
    batches = {job.run.batch_size for job in jobs} - {PAPER_BATCH}
    return [
        *(f"on {dataset}" for dataset in datasets),
        *(f"blocks of {', '.join(map(str, widths))} units" for widths in networks),
        *(f"minibatches of {size}" for size in batches),
    ]


def _cells(line: Line) -> list[str]:
    accuracy = "" if line.accuracy is None else f"{100 * line.accuracy:.2f}"
    accuracy += "" if line.spread is None else f" ± {100 * line.spread:.2f}"
    accuracy = f"= {accuracy}" if line.same_as else accuracy
    measured = _times(line.measured_speedup)
    if measured and line.processes != line.nodes:
        measured += f" ({line.processes} processes)"
    return [
        line.model,
        _TITLES[line.schedule],
        str(line.nodes),
        line.readout,
        accuracy or "–",
        "–" if line.paper_accuracy is None else f"{100 * line.paper_accuracy:.2f}",
        ("≈ " * (line.planned_from == "cost model") + _times(line.planned_speedup)) or "–",
        measured or "–",
        _times(line.paper_speedup) or "–",
    ]


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}×"


def _mean(values: Sequence[float]) -> float | None:
    return statistics.mean(values) if values else None
