from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import RenderableType

from layerline.api import train
from layerline.events import EpochDone, Evaluated, Minibatch, Row, Saved, Started
from layerline.reporting.closing import closing
from layerline.reporting.console import Display
from layerline.reporting.times import clock
from reporting.displays import console, gives_the_terminal_back, shows_nothing_when_quiet
from reporting.tiny import tiny_data, tiny_run

ROWS = [Row(3, "1", 0.123456, 0.981, 1.5, 0.25), Row(3, "head", 0.5, 0.9)]
STARTED = Started("digits", "runs/digits/x", 0, 40, 8, [])
VALUES: dict[str, Any] = {
    "preset": "digits",
    "readout": "softmax",
    "readouts": {"softmax": 0.98765, "goodness": 0.97},
    "validation_accuracy": None,
    "train_seconds": 12.34,
    "epochs": 8,
    "device": "cpu",
    "run_dir": "runs/digits/my run",
}


def test_elsewhere_than_on_a_terminal_every_epoch_is_one_plain_line() -> None:
    where, text = console(terminal=False)
    with Display(console=where) as display:
        display(STARTED)
        for _ in range(14):
            display(Minibatch(3, "all blocks"))
        display(EpochDone(3, ROWS))
        display(Saved("checkpoint"))
        display(Evaluated(3, "test", 0.9783, 4.2))
    lines = text.getvalue().splitlines()
    assert lines[0] == "digits · runs/digits/x"
    assert lines[1].startswith(
        "epoch 3/8 | block 1: loss 0.1235, accuracy 98.10 % | head: loss 0.5, accuracy 90.00 % | "
    )
    assert lines[2] == "test accuracy 97.83 % after epoch 3"
    assert len(lines) == 3
    assert "\x1b" not in text.getvalue()


def test_on_a_terminal_progress_and_the_latest_numbers_of_every_block_stand_still() -> None:
    where, text = console(terminal=True)
    with Display(console=where) as display:
        display(STARTED)
        for _ in range(9):
            display(Minibatch(3, "all blocks"))
        display(EpochDone(3, ROWS))
        display(Evaluated(3, "validation", 0.9783, 4.2))
        display(Minibatch(4, "all blocks"))
    last = text.getvalue().split("epoch 4/8")[-1]
    assert "11/40" in last
    assert "validation accuracy 97.83 % after epoch 3" in last
    for shown in ("block", "goodness +", "goodness −", "0.1235", "98.10 %", "1.5", "0.25", "head"):
        assert shown in last
    assert text.getvalue().endswith("\x1b[?25h"), "the cursor is shown again"


def test_without_goodness_there_are_no_columns_for_it() -> None:
    where, text = console(terminal=True)
    with Display(console=where) as display:
        display(STARTED)
        display(EpochDone(3, [ROWS[1]]))
    assert "goodness" not in text.getvalue()


def test_a_resumed_run_starts_from_what_was_done() -> None:
    where, text = console(terminal=True)
    with Display(console=where) as display:
        display(Started("digits", "", 30, 40, 8, ROWS))
    assert "going on after 30 of 40 minibatches" in text.getvalue()
    assert "epoch 3/8" in text.getvalue()
    assert "98.10 %" in text.getvalue()


def test_an_error_gives_the_terminal_back() -> None:
    gives_the_terminal_back(Display, STARTED)


def test_quiet_shows_nothing() -> None:
    shows_nothing_when_quiet(
        Display, STARTED, Minibatch(1, "block 1"), EpochDone(3, ROWS), Evaluated(3, "test", 0.5, 1.0)
    )


def test_a_minibatch_costs_microseconds() -> None:
    where, _ = console(terminal=True)
    minibatch, costs = Minibatch(1, "block 1"), []
    with Display(console=where) as display:
        display(STARTED)
        for _ in range(2000):
            begin = time.perf_counter()
            display(minibatch)
            costs.append(time.perf_counter() - begin)
    assert sorted(costs)[len(costs) // 2] < 5e-6


def test_a_slow_terminal_is_drawn_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    where, _ = console(terminal=True)
    with Display(console=where) as display:
        display(STARTED)
        picture = display._picture

        def slow_picture() -> RenderableType:
            time.sleep(0.02)
            return picture()

        monkeypatch.setattr(display, "_picture", slow_picture)
        display._draw()
        assert display._due - time.monotonic() > 0.5


def test_a_real_training_writes_to_standard_error_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Display() as display:
        result = train(tiny_run(eval_every=1), data=tiny_data(), out_dir=tmp_path / "run", listener=display)
    closing(result.values)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("block 2: loss") == 2
    assert f"layerline evaluate {tmp_path}/run" in shown.err


def test_the_last_words_name_every_readout_the_folder_and_what_next() -> None:
    where, text = console(terminal=False)
    closing(VALUES, console=where)
    lines = [" ".join(line.split()) for line in text.getvalue().splitlines() if line]
    assert lines[0] == "test accuracy 98.77 % softmax readout"
    assert lines[1] == "test accuracy 97.00 % goodness"
    assert lines[2] == "training 12.3 s 8 epochs, cpu"
    assert "runs/digits/my run/model" in lines[3]
    assert lines[4].startswith("layerline predict 'runs/digits/my run' IMAGE")
    assert any(line.startswith("layerline train ff-mnist") for line in lines)


def test_the_last_words_name_the_data_folder_that_was_named() -> None:
    """Without it the command would look elsewhere, and download the set."""
    where, text = console(terminal=False)
    closing(VALUES, console=where, data_dir="my data")
    assert "layerline evaluate 'runs/digits/my run' --data-dir 'my data'" in text.getvalue()


def test_the_last_words_on_a_run_that_was_cut_short() -> None:
    """It once said that two minibatches were fifteen epochs."""
    where, text = console(terminal=False)
    closing(VALUES | {"epochs": 15, "max_steps": 2}, console=where)
    assert "15 epochs, at most 2 minibatches, " in text.getvalue()


def test_the_last_words_on_a_validation_run_and_on_none() -> None:
    where, text = console(terminal=False)
    closing(VALUES | {"validation_accuracy": 0.98765}, console=where)
    assert "validation accuracy" in text.getvalue()
    assert "test accuracy" not in text.getvalue()
    closing(VALUES | {"readouts": {}, "run_dir": None}, console=where)
    assert "no held-out data" in text.getvalue()


def test_the_last_words_on_a_run_over_nodes() -> None:
    where, text = console(terminal=False)
    over: dict[str, Any] = {
        "nodes": 3,
        "processes": 3,
        "utilisation": 0.726,
        "speedup": 2.178,
        "bytes_sent": 58_175_928,
    }
    over |= {"predicted_seconds": 12.0, "predicted_from": "calibration"}
    closing(VALUES | over, console=where)
    lines = [" ".join(line.split()) for line in text.getvalue().splitlines() if line]
    assert lines[3] == "speed-up 2.18× 3 nodes in 3 processes, 73% busy, 58.2 MB sent"
    assert lines[4] == "predicted 12.0 s by slot costs measured before: it took +2.8%"
    closing(VALUES | over | {"nodes": 1, "processes": 1, "predicted_from": "first chapter"}, console=where)
    assert "1 node in 1 process, 73% busy " in text.getvalue(), "no word of messages"
    assert "by the first chapter's slots" in text.getvalue()
    steps = {"predicted_from": "rows", "step_seconds": 0.056243, "predicted_step_seconds": 0.053}
    closing(VALUES | over | steps, console=where)
    assert "a step 56.2 ms 53 ms predicted" in " ".join(text.getvalue().split())


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0:00"), (41.4, "0:41"), (725, "12:05"), (3723, "1:02:03")])
def test_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


def test_the_last_words_on_a_stream_say_what_crossed_and_how_often_it_was_used() -> None:
    where, text = console(terminal=False)
    boundaries = [{"bytes": 100, "ratio": 20.0, "error": 0.21}, {"bytes": 300, "ratio": 12.0, "error": 0.1}]
    blocks = [{"block": 1}, {"block": 2, "uses": 1.25}]
    closing(VALUES | {"boundaries": boundaries, "blocks": blocks}, console=where)
    lines = [" ".join(line.split()) for line in text.getvalue().splitlines() if line]
    assert "outputs 14.0 times fewer bytes than float32; relative error, block by block: 0.210, 0.100" in lines
    assert "uses 1.25 each minibatch that a block took, from the second block on" in lines
