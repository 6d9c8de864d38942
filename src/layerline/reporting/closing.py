"""The last words on a finished run, on standard error: how well, where, and what next."""

from __future__ import annotations

import shlex
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from layerline.reporting.beside_table import beside_cells
from layerline.reporting.times import duration


def closing(values: dict[str, Any], *, console: Console | None = None, data_dir: str | None = None) -> None:
    """Say them. `values`: the content of result.json.

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
    facts.add_row("training", duration(values["train_seconds"]), f"{_length(values)}, {values['device']}")
    for name, said, more in [*_running_freely(values), *_coded(values), *_over_nodes(values)]:
        facts.add_row(name, said, more)
    console.print(Text())
    console.print(facts, soft_wrap=True)
    if "beside" in values:
        console.print(Text())
        console.print(_beside(values["beside"]), soft_wrap=True)
    if values["run_dir"] is None:
        return
    console.print(Text(f"The model lies in {values['run_dir']}/model. What to try next:"), soft_wrap=True)
    tries = _tries(values, data_dir)
    width = max(len(command) for command, _ in tries)
    for command, why in tries:
        console.print(Text(f"  {command:{width}}  ").append(f"# {why}", style="dim"), soft_wrap=True)


def _tries(values: dict[str, Any], data_dir: str | None) -> list[tuple[str, str]]:
    """Commands for what to do with the model, and why."""
    folder = shlex.quote(values["run_dir"])
    data = f" --data-dir {shlex.quote(data_dir)}" if data_dir else ""
    tries = [] if "bits_per_character" in values else [(f"predict {folder} IMAGE", "which class an image is")]
    if "node_accuracies" in values:
        tries.append((f"evaluate {folder} --dataset SET", "measure it on another set"))
    else:
        tries.append((f"evaluate {folder}{data}", "measure it again"))
    if values["preset"] == "digits":
        tries.append(("train ff-mnist", "Forward-Forward on MNIST"))
    tries.append(("presets", "what else there is to train"))
    return [(f"layerline {words}", why) for words, why in tries]


def _over_nodes(values: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What a run over nodes brought: speed-up over the work by itself, and the time beside the plan's."""
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
        ("predicted", duration(predicted), by),
        *([("a step", f"{steps[0]:.3g} ms", f"{steps[1]:.3g} ms predicted")] if len(steps) == 2 else []),
    ]


def _running_freely(values: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Of blocks that ran freely: how much each node did, how often minibatches were used, and how old they were."""
    later = values.get("blocks", [])[1:]
    if not later:
        return []
    uses = ", ".join(f"{block['uses']:.2f}" for block in later)
    said = [("uses", uses, "each minibatch that a block took, from the second block on")]
    if "share_of_events" not in values:
        return said
    ages = ", ".join(f"{block['age']:.1f}" for block in later)
    said.append(("age", ages, "newer ones that the block below had made by then"))
    nodes, processes = values["nodes"], values["processes"]
    where = f"{nodes} nodes in {processes} process{'es' * (processes > 1)}, {values['bytes_sent'] / 1e6:,.1f} MB sent"
    shares = ", ".join(f"{share:.0%}" for share in values["share_of_events"])
    return [("node by node", shares, f"of the {values['events']:,} steps; {where}"), *said]


def _coded(values: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Of outputs that crossed to the next block with a loss: what it saved, and what it cost."""
    entries = values.get("boundaries", [])
    if not any(entry["error"] for entry in entries):
        return []
    ratio = sum(entry["bytes"] * entry["ratio"] for entry in entries) / sum(entry["bytes"] for entry in entries)
    errors = ", ".join(f"{entry['error']:.3f}" for entry in entries)
    return [("outputs", f"{ratio:.1f} times fewer bytes", f"than float32; relative error, block by block: {errors}")]


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
    names, *rows = beside_cells(lines)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(names[0])
    for name in names[1:]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def _length(values: dict[str, Any]) -> str:
    """`15 epochs`, which `--max-steps` may have cut short."""
    epochs, most = values["epochs"], values.get("max_steps")
    cut = f", at most {most:,} minibatch{'es' * (most > 1)}" if most else ""
    return f"{epochs} epoch{'s' * (epochs != 1)}{cut}"
