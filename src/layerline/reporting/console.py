"""What a run shows while it trains, on standard error; standard output stays free for results.

    on a terminal                                                          elsewhere
    digits · runs/digits/20260101-120000                                   the same header, then
    epoch 3/8 · all blocks  ━━━━━━━━╸─────── 702/1,880  0:41 left          one line per epoch
    test accuracy 97.83 % after epoch 2
    block   epoch   loss    accuracy   goodness +   goodness −
    1           2   0.123    98.10 %        1.234        0.456

Problem: a small network trains thousands of minibatches a second, and drawing takes milliseconds; a thread that draws
would take the interpreter away from training.

Solution: a minibatch is counted, nothing more, and a few times a second the same call draws. It is called between two
minibatches, so drawing is not training time; and where drawing is slow, it happens less often.
"""

from __future__ import annotations

import math
import shlex
import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from layerline.events import EpochDone, Evaluated, Event, Minibatch, Row, Started

_SECONDS_BETWEEN = 1 / 8
_SHARE = 0.02  # of the time may go into drawing, however slow the terminal is


class Display:
    """A listener that shows a run; use it as a context manager around the training. `quiet`: it shows nothing."""

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._quiet = quiet
        self._live: Live | None = None
        self._started = Started("", "", 0, 0, 0, [])
        self._done = 0
        self._latest: Minibatch | None = None
        self._epoch, self._what = 1, ""
        self._rows: dict[str, Row] = {}
        self._look: Evaluated | None = None
        self._begin = time.monotonic()
        self._due = math.inf

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live:
            self._draw()
            self._live.stop()
            self._live, self._due = None, math.inf

    def __call__(self, event: Event) -> None:
        if isinstance(event, Minibatch):
            self._done += 1
            self._latest = event
            if time.monotonic() >= self._due:
                self._draw()
        elif not self._quiet:
            self._hear(event)

    def _hear(self, event: Event) -> None:
        if isinstance(event, Started):
            self._start(event)
        elif isinstance(event, EpochDone):
            self._done += 1
            self._epoch = event.epoch
            self._what = "all blocks" if len(event.rows) > 1 else _name(event.rows[0])
            self._latest = None
            self._rows |= {row.block: row for row in event.rows}
            if self._live is None:
                numbers = " | ".join(map(_line, event.rows))
                self._say(f"epoch {event.epoch}/{self._started.epochs} | {numbers} | {self._left()}")
        elif isinstance(event, Evaluated):
            self._look = event
            if self._live is None:
                self._say(_looked(event))
        if self._live:
            self._draw()

    def _start(self, event: Started) -> None:
        self._started, self._done, self._begin = event, event.done, time.monotonic()
        self._rows = {row.block: row for row in event.rows}
        self._epoch = event.rows[-1].epoch if event.rows else 1
        header = Text(event.preset, style="bold")
        if event.run_dir:
            header.append(f" · {event.run_dir}", style="not bold")
        self._console.print(header, soft_wrap=True)
        if event.done:
            self._say(f"going on after {event.done:,} of {event.total:,} minibatches")
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False)
            self._live.start()
            self._due = 0.0

    def _say(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)

    def _draw(self) -> None:
        if self._live:
            begin = time.monotonic()
            self._live.update(self._picture(), refresh=True)
            end = time.monotonic()
            self._due = end + max(_SECONDS_BETWEEN, (end - begin) / _SHARE)

    def _picture(self) -> RenderableType:
        if self._latest:
            self._epoch, self._what = self._latest.epoch, self._latest.what
        progress = Table.grid(padding=(0, 2), expand=True)
        for ratio in (None, 1, None, None):
            progress.add_column(ratio=ratio, no_wrap=True)
        bar = ProgressBar(total=max(1, self._started.total), completed=self._done)
        progress.add_row(self._where(), bar, f"{self._done:,}/{self._started.total:,}", self._left())
        parts: list[RenderableType] = [progress]
        if self._look:
            parts.append(Text(_looked(self._look), style="bold"))
        if self._rows:
            parts.append(_table(list(self._rows.values())))
        return Group(*parts)

    def _where(self) -> str:
        return f"epoch {self._epoch}/{self._started.epochs}" + (f" · {self._what}" if self._what else "")

    def _left(self) -> str:
        """Time left, should it go on like this."""
        new, left = self._done - self._started.done, self._started.total - self._done
        elapsed = time.monotonic() - self._begin
        if left <= 0:
            return "done"
        return f"{clock(elapsed / new * left)} left" if new and elapsed > 0.5 else "-:-- left"


def closing(values: dict[str, Any], *, console: Console | None = None, data_dir: str | None = None) -> None:
    """The last words on a finished run (`values`: the content of result.json): how well, where, and what next.

    `data_dir`: where its data lay, if that was said; measuring it again needs the same words.
    """
    console = console or Console(stderr=True)
    held = values.get("validation_accuracy") is not None
    facts = Table.grid(padding=(0, 2))
    for name, value in values["readouts"].items():
        chosen = name == values["readout"]
        style = "bold green" if chosen and len(values["readouts"]) > 1 else "bold" if chosen else ""
        what = "validation accuracy" if held else "test accuracy"
        facts.add_row(what, Text(f"{100 * value:.2f} %", style=style), f"{name}{' readout' if chosen else ''}")
    for name, bits in values.get("bits_per_character", {}).items():
        facts.add_row("bits per character", f"{bits:.3f}", name)
    if not values["readouts"]:
        facts.add_row("accuracy", "not measured", "there is no held-out data")
    facts.add_row("training", _duration(values["train_seconds"]), f"{_epochs(values['epochs'])}, {values['device']}")
    for name, said, more in _over_nodes(values):
        facts.add_row(name, said, more)
    console.print(Text())
    console.print(facts, soft_wrap=True)
    if "beside" in values:
        console.print(Text())
        console.print(_beside(values["beside"]), soft_wrap=True)
    if values["run_dir"] is None:
        return
    folder = shlex.quote(values["run_dir"])
    console.print(Text(f"The model lies in {values['run_dir']}/model. What to try next:"), soft_wrap=True)
    data = f" --data-dir {shlex.quote(data_dir)}" if data_dir else ""
    tries = [] if "bits_per_character" in values else [("predict", f"{folder} IMAGE", "which class an image is")]
    if "node_accuracies" in values:
        tries.append(("evaluate", f"{folder} --dataset SET", "measure it on another set"))
    else:
        tries.append(("evaluate", f"{folder}{data}", "measure it again"))
    if values["preset"] == "digits":
        tries.append(("train", "ff-mnist", "Forward-Forward on MNIST"))
    tries.append(("presets", "", "what else there is to train"))
    commands = [f"layerline {verb} {rest}".rstrip() for verb, rest, _ in tries]
    width = max(map(len, commands))
    for command, (_, _, why) in zip(commands, tries, strict=True):
        console.print(Text(f"  {command:{width}}  ").append(f"# {why}", style="dim"), soft_wrap=True)


def _over_nodes(values: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What a run over nodes brought: speed-up over the work by itself, and the time beside the plan's."""
    if "share_of_events" in values:
        return _running_freely(values)
    if "predicted_seconds" not in values:
        return []
    count, processes = values["nodes"], values["processes"]
    nodes = f"{count} node{'s' * (count > 1)} in {processes} process{'es' * (processes > 1)}"
    megabytes = f", {values['bytes_sent'] / 1e6:,.1f} MB sent" if count > 1 else ""
    predicted, measured = values["predicted_seconds"], values["train_seconds"]
    sources = {"calibration": "slot costs measured before", "rows": "what its rows took, without waiting"}
    source = sources.get(values["predicted_from"], "the first chapter's slots")
    by = f"by {source}: it took {measured / predicted - 1:+.1%}" if predicted else f"by {source}"
    if values.get("engine") == "flower":  # which looks for messages now and then
        by = "if messages arrived at once"
    steps = [1e3 * values[name] for name in ("step_seconds", "predicted_step_seconds") if name in values]
    return [
        *_each(values, "node_accuracies", "node by node", "each on its own held-out examples"),
        *_each(values, "participant_accuracies", "participants", "the whole model on the examples that each holds"),
        *_traffic(values),
        ("speed-up", f"{values['speedup']:.2f}×", f"{nodes}, {values['utilisation']:.0%} busy{megabytes}"),
        ("predicted", _duration(predicted), by),
        *([("a step", f"{steps[0]:.3g} ms", f"{steps[1]:.3g} ms predicted")] if len(steps) == 2 else []),
    ]


def _running_freely(values: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Of nodes that ran freely: how much each did, how often minibatches were used, and how old they were."""
    nodes, processes = values["nodes"], values["processes"]
    where = f"{nodes} nodes in {processes} process{'es' * (processes > 1)}, {values['bytes_sent'] / 1e6:,.1f} MB sent"
    shares = ", ".join(f"{share:.0%}" for share in values["share_of_events"])
    later = values["blocks"][1:]
    uses = ", ".join(f"{block['uses']:.2f}" for block in later)
    ages = ", ".join(f"{block['age']:.1f}" for block in later)
    what = "each minibatch that a block took, from the second block on"
    return [
        ("node by node", shares, f"of the {values['events']:,} steps; {where}"),
        ("uses", uses, what),
        ("age", ages, "newer ones that the block below had made by then"),
    ]


def _each(values: dict[str, Any], name: str, what: str, of: str) -> list[tuple[str, str, str]]:
    """The accuracies of all nodes, where there are any."""
    right = ", ".join("–" if each is None else f"{100 * each:.2f} %" for each in values.get(name, []))
    return [(what, right, of)] if right else []


def _traffic(values: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What went up to a server and down from it, where there is one."""
    if "bytes_up" not in values:
        return []
    up, down = (", ".join(f"{count / 1e6:,.2f}" for count in values[name]) for name in ("bytes_up", "bytes_down"))
    return [("traffic", f"{up} MB up", f"{down} MB down, participant by participant")]


def _beside(lines: list[dict[str, Any]]) -> Table:
    """A federated run and FedAvg of backprop; bytes are one participant's, through a server that passes blocks on."""
    names = {"run": "this run", "equal-epochs": "FedAvg, equal epochs", "equal-bytes": "FedAvg, equal bytes"}
    if {**lines[1], "name": ""} == {**lines[2], "name": ""}:
        lines, names = lines[:2], names | {"equal-epochs": "FedAvg, equal epochs and bytes"}
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("beside FedAvg")
    for column in ("accuracy", "passes", "chapters", "MB up", "MB down", "training"):
        table.add_column(column, justify="right")
    for line in lines:
        right = "–" if line["accuracy"] is None else f"{100 * line['accuracy']:.2f} %"
        megabytes = [f"{line[name] / 1e6:,.2f}" for name in ("bytes_up", "bytes_down")]
        numbers = [right, str(line["passes"]), str(line["chapters"]), *megabytes, _duration(line["train_seconds"])]
        table.add_row(names[line["name"]], *numbers)
    return table


def clock(seconds: float) -> str:
    """0:41, 12:05 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _epochs(count: int) -> str:
    return f"{count} epoch{'s' * (count != 1)}"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _looked(look: Evaluated) -> str:
    return f"{look.split} accuracy {100 * look.accuracy:.2f} % after epoch {look.epoch}"


def _name(row: Row) -> str:
    return row.block if row.block == "head" else f"block {row.block}"


def _line(row: Row) -> str:
    return f"{_name(row)}: loss {row.loss:.4g}, accuracy {100 * row.accuracy:.2f} %"


def _table(rows: list[Row]) -> Table:
    """One line per block with its latest numbers."""
    goodness = any(row.goodness_positive is not None for row in rows)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("block")
    for column in ("epoch", "loss", "accuracy", *(("goodness +", "goodness −") if goodness else ())):
        table.add_column(column, justify="right")
    for row in rows:
        cells = [row.block, str(row.epoch), f"{row.loss:.4g}", f"{100 * row.accuracy:.2f} %"]
        if goodness:
            cells += ["" if g is None else f"{g:.4g}" for g in (row.goodness_positive, row.goodness_negative)]
        table.add_row(*cells)
    return table
