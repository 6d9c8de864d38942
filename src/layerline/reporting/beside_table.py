"""A federated run and FedAvg of backprop beside it, in words: for the last words on a run, and for its model card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layerline.reporting.times import duration


def beside_cells(lines: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The heads of the columns, then a row each of `beside` in result.json.

    Bytes are one participant's, through a server that passes blocks on. Where equal bytes are equal epochs, one row
    says so.
    """
    names = {"run": "this run", "equal-epochs": "FedAvg, equal epochs", "equal-bytes": "FedAvg, equal bytes"}
    if {**lines[1], "name": ""} == {**lines[2], "name": ""}:
        lines, names = lines[:2], names | {"equal-epochs": "FedAvg, equal epochs and bytes"}
    cells = [["beside FedAvg", "accuracy", "passes", "chapters", "MB up", "MB down", "training"]]
    for line in lines:
        right = "–" if line["accuracy"] is None else f"{100 * line['accuracy']:.2f} %"
        megabytes = [f"{line[name] / 1e6:,.2f}" for name in ("bytes_up", "bytes_down")]
        numbers = [right, str(line["passes"]), str(line["chapters"]), *megabytes, duration(line["train_seconds"])]
        cells.append([names[line["name"]], *numbers])
    return cells
