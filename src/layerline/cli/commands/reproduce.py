"""`layerline reproduce pff-tables --epochs E`."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from layerline import api
from layerline.cli.flags import add_settings, settings_of
from layerline.cli.output import add_data_dir, add_format, note, print_json
from layerline.cli.parser import Parser
from layerline.cli.training import count, load_data
from layerline.cli.units import duration
from layerline.data.catalog import published_sizes
from layerline.data.dataset import Dataset
from layerline.errors import LayerlineError, Stopped, UsageError
from layerline.reporting.console import Display
from layerline.reporting.environment import usable_cores
from layerline.reproduction.cells import CELLS, Job, Shared, chosen, jobs_of
from layerline.reproduction.report import lines_of, markdown, write_tables
from layerline.reproduction.times import Shape, expected
from layerline.run import Run
from layerline.runtime.members import Membership
from layerline.runtime.stop import on_signals


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to reproduce, which cells of it, and what they share."""
    parser.add_argument("what", metavar="pff-tables", choices=("pff-tables",), help="Tables 1 to 5 of the PFF paper.")
    parser.add_argument("--out-dir", metavar="FOLDER", help=(
        "Where the runs and the tables go, and where the same command goes on; else runs/reproduce/pff-tables-EPOCHS."
    ))  # fmt: skip
    parser.add_argument("--seeds", default="0", metavar="N,N,…", help="Every cell once with each. Default 0.")
    parser.add_argument("--only", metavar="PATTERN", help=(
        "The cells with these words in name or table: all-layers, table-1, 'mnist softmax'; commas mean or."
    ))  # fmt: skip
    parser.add_argument("--list", action="store_true", help="Only say which cells there are and what is finished.")
    parser.add_argument("--processes", type=count, metavar="P", help=(
        "Processes that carry out a run, at most one a node; else as many as there are cores for."
    ))  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="No progress on standard error.")
    add_data_dir(parser)
    add_format(parser)
    add_settings(parser, Shared)
    words = parser.words if isinstance(parser, Parser) else ()
    parser.set_defaults(command=shlex.join(["layerline", "reproduce", *words]))


def run(arguments: argparse.Namespace) -> None:
    """Run what is missing, one cell after the other, and write the tables after each."""
    work = _Reproduction(arguments)
    if arguments.list:
        work.show()
        return
    failed = work.carry_out()
    about = work.write()
    if arguments.format == "json":
        print_json(about)
    else:
        print(markdown(about, work.lines()))
        note(f"written: {work.out_dir / 'tables.md'}")
    if failed:
        raise LayerlineError(
            f"{len(failed)} of {len(work.jobs)} runs failed: {'; '.join(failed)}",
            hint=f"try them again: {arguments.command}",
        )


class _Reproduction:
    """The cells that were asked for, all cells of the table, and the data they learn from."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.shared = Shared.model_validate(settings_of(arguments))
        if self.shared.epochs is None:
            raise UsageError("how many epochs?", hint="the paper's: --epochs 100; for an hour or two: --epochs 2")
        if arguments.processes == 0:
            raise UsageError("a run needs at least one process, got --processes 0")
        if Membership.of_environment():
            raise UsageError("reproduce starts its processes itself", hint="call it without torchrun: --processes P")
        out_dir = arguments.out_dir or f"runs/reproduce/pff-tables-{self.shared.epochs}"
        self.out_dir = Path(out_dir).expanduser()
        seeds, cells = _seeds(arguments.seeds), chosen(arguments.only)
        self.all = jobs_of(CELLS, self.shared, seeds, self.out_dir)
        self.jobs = [job for job in self.all if job.cell in cells]
        self._data: dict[str, Dataset] = {}
        self.shapes = {name: self._shape(name) for name in dict.fromkeys(job.run.dataset for job in self.all)}
        for job in self.jobs:
            expected(job.run, self.shapes[job.run.dataset])  # UsageError for what no plan can be

    def processes(self, job: Job) -> int:
        """How many carry a run out."""
        cores = max(1, usable_cores() // self.shared.threads)
        return min(self.arguments.processes or cores, job.run.nodes)

    def carry_out(self) -> list[str]:
        """Run what is missing; the names of those that failed. Stopped with the command to go on."""
        failed = []
        try:
            for at, job in enumerate(self.jobs, 1):
                if job.result() is not None:
                    continue
                self._say(f"[{at}/{len(self.jobs)}] {job.name}")
                try:
                    values = self._train(job)
                except Stopped:
                    raise
                except LayerlineError as error:
                    note(f"error: {job.name}: {error}")
                    failed.append(job.name)
                    continue
                self._say(f"{100 * values['test_accuracy']:.2f} % after {duration(values['train_seconds'])}")
                self.write()
        except (Stopped, KeyboardInterrupt) as stopped:
            status = stopped.exit_status if isinstance(stopped, Stopped) else 130
            hint = f"go on with: {self.arguments.command}"
            raise Stopped("stopped; what is finished is kept", exit_status=status, hint=hint) from None
        return failed

    def _train(self, job: Job) -> dict[str, Any]:
        """One run, from the start or from where it was stopped."""
        with on_signals() as stop, Display(quiet=self.arguments.quiet) as display:
            common: dict[str, Any] = {
                "data": self._load(job.run.dataset),
                "data_dir": self.arguments.data_dir,
                "listener": display,
                "stop": stop,
                "processes": self.processes(job),
                "show": not self.arguments.quiet,
            }
            if job.begun:
                return api.resume(job.folder, **common).values
            job.clear()
            return api.train(job.run, out_dir=job.folder, **common).values

    def lines(self) -> list[Any]:
        """The lines of the tables, as they stand."""
        return lines_of(self.all, self.shapes)

    def write(self) -> dict[str, Any]:
        """The tables, as they stand."""
        return write_tables(self.out_dir, self.lines(), self.arguments.command, self.all)

    def show(self) -> None:
        """What there is, how long it would take, and what is finished."""
        listed = [self._entry(job) for job in self.jobs]
        if self.arguments.format == "json":
            print_json({"out_dir": str(self.out_dir), "runs": listed})
            return
        width = max(len(each["name"]) for each in listed)
        for each in listed:
            tables = ",".join(map(str, each["tables"]))
            took = f"took {duration(each['train_seconds'])}" if each["state"] == "finished" else ""
            print(
                f"{each['name']:{width}}  table {tables:4}  {each['nodes']} node{'s' if each['nodes'] > 1 else ' '}  "
                f"planned {duration(each['planned_seconds']):>12}  {each['state']} {took}".rstrip()
            )
        left = [each["planned_seconds"] for each in listed if each["state"] != "finished"]
        print(
            f"\n{len(listed) - len(left)} of {len(listed)} finished; the others: {duration(sum(left))} by the cost "
            f"model, for cores as `layerline plan` assumes them"
        )

    def _entry(self, job: Job) -> dict[str, Any]:
        result = job.result()
        plan = expected(job.run, self.shapes[job.run.dataset])
        return {
            "name": job.name,
            "cell": job.cell.name,
            "seed": job.seed,
            "tables": list(job.cell.tables),
            "nodes": job.run.nodes,
            "processes": self.processes(job),
            "planned_seconds": plan.seconds(self.processes(job)),
            "planned_speedup": plan.speedup,
            "state": "finished" if result else "begun" if job.begun else "to do",
            "train_seconds": result["train_seconds"] if result else None,
            "folder": str(job.folder),
        }

    def _shape(self, name: str) -> Shape:
        """Of a data set, without reading it where it is known."""
        known = published_sizes(name)
        if known:
            return known
        data = self._load(name)
        return data.shape, data.num_classes, len(data.train)

    def _load(self, name: str) -> Dataset:
        if name not in self._data:
            data = load_data(Run(dataset=name), self.arguments)
            assert isinstance(data, Dataset)
            self._data[name] = data
        return self._data[name]

    def _say(self, words: str) -> None:
        if not self.arguments.quiet:
            note(words)


def _seeds(words: str) -> list[int]:
    """`0,1,2`. UsageError for anything else."""
    parts: Sequence[str] = [part.strip() for part in words.split(",")]
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise UsageError(f"--seeds: '{words}' is no list of seeds", hint="write it like 0,1,2")
    return list(dict.fromkeys(map(int, parts)))
