"""`benchmarks/links.py`: which runs its cells are, how throughput is read, and what is printed of it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
from links import WAYS, steps_a_second, wanted
from links_report import lines, plot, sentence

from layerline.cli.flags import add_settings, settings_of
from layerline.cli.resolve import resolve
from layerline.run import Run
from layerline.stream_run import StreamRun


def given(**named: Any) -> argparse.Namespace:
    every: dict[str, Any] = {"ways": list(WAYS), "links": ["loopback", "100mbit", "delay"], "seeds": [0, 1]}
    return argparse.Namespace(**every | {"delay_ms": 20.0, "steps": 40, "batch": 128} | named)


def test_every_cell_is_a_run_of_its_own() -> None:
    cells = wanted(given())
    assert len({cell.name for cell in cells}) == len({str(cell.flags) for cell in cells}) == len(cells)
    assert len(cells) == 2 * (7 * 3 + 2), "one node crosses no link"


@pytest.mark.parametrize("way", WAYS)
def test_every_way_is_a_run_that_there_is(way: str) -> None:
    start, *flags = wanted(given(ways=[way], links=["loopback"], seeds=[0]))[0].words
    root = StreamRun if start == "dgl-cifar10" else Run
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_settings(parser, root)
    assert isinstance(resolve(start, flags=settings_of(parser.parse_args(flags))), root)


def bar(node: int, lane: int, step: int, begin: float, end: float) -> dict[str, Any]:
    name = f"block 1, step {step}, microbatch 1, forward"
    return {"ph": "X", "pid": node, "tid": lane, "name": name, "ts": 1e6 * begin, "dur": 1e6 * (end - begin)}


def test_throughput_is_that_of_the_middle() -> None:
    """Steps 3, 4, then 10 and 11 were recorded: 7 steps in the 14 s from the end of 4 to the end of 11."""
    names = [{"ph": "M", "pid": 1, "tid": 0, "name": "thread_name"}]
    bars = [
        bar(1, 0, 3, 0, 20),
        bar(1, 0, 4, 20, 25),
        bar(2, 0, 4, 25, 26),
        bar(1, 0, 10, 30, 38),
        bar(1, 0, 11, 38, 40),
    ]
    message = [bar(1, 1000, 11, 40, 99)]
    assert steps_a_second({"traceEvents": [*names, *bars, *message]}) == pytest.approx(7 / 14)


def test_table_sentence_and_plot(tmp_path: Path) -> None:
    speeds = {
        ("DGL", "loopback"): [300, 320, 310],
        ("DGL", "100mbit"): [150],
        ("DDP", "loopback"): [620],
        ("DDP", "100mbit"): [30],
        ("PFF", "100mbit"): [9999],
        ("DGL, one node", "loopback"): [200],
    }
    found = [
        (*at, {"images_per_second": float(each), "megabytes_a_step": 8.5 if at[1] != "loopback" else None})
        for at, every in speeds.items()
        for each in every
    ]
    assert lines(found) == [
        ["images a second", "loopback", "100mbit", "MB a step"],
        ["DGL", "310 (300–320)", "150", "8.50"],
        ["DDP", "620", "30", "8.50"],
        ["PFF", "–", "9,999", "8.50"],
        ["DGL, one node", "200", "–", "–"],
    ]
    assert sentence(found) == "loopback: DGL 0.50 times as fast as DDP; 100mbit: DGL 5.00 times as fast as DDP"
    plot(found, tmp_path / "plot.svg")
    assert "DGL, one node" in (tmp_path / "plot.svg").read_text(encoding="utf-8")
