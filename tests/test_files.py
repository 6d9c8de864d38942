"""Whole files, whoever else writes them, and nothing left of those that were killed."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from layerline.errors import LayerlineError
from layerline.files import replacing, scratch, sweep, write_text


def test_two_that_write_the_same_file_at_once(tmp_path: Path) -> None:
    """They used to write to the same place beside it: one tore the other's file, or renamed it half written."""
    path = tmp_path / "slot.safetensors"
    with replacing(path) as first:
        first.write_bytes(b"half")
        with replacing(path) as second:
            assert second != first
            save_file({"x": torch.ones(1000)}, second)
        assert torch.equal(load_file(path)["x"], torch.ones(1000))
        save_file({"x": torch.ones(1000)}, first)
    assert torch.equal(load_file(path)["x"], torch.ones(1000))
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def full() -> None:
        with replacing(path) as beside:
            beside.write_text("half")
            raise OSError("no")

    with pytest.raises(LayerlineError, match=r"cannot write .*file\.txt: no"):
        full()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


WRITES = """
import sys
from pathlib import Path
from layerline.files import replacing

with replacing(Path(sys.argv[1])) as beside:
    beside.write_text("half")
    print("writing", flush=True)
    sys.stdin.readline()
    beside.write_text("whole")
"""


def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    words = [sys.executable, "-c", WRITES, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(words, **pipes) as living, subprocess.Popen(words, **pipes) as killed:  # type: ignore[call-overload]
        for each in (living, killed):
            assert each.stdout.readline() == b"writing\n"
        killed.kill()
        killed.wait(20)
        assert len(list(tmp_path.iterdir())) == 2
        sweep(tmp_path)
        assert len(list(tmp_path.iterdir())) == 1
        living.communicate(b"\n", timeout=20)
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


def test_sweeping_disturbs_nobody_who_begins_to_write(tmp_path: Path) -> None:
    done = threading.Event()

    def sweeping() -> None:
        while not done.is_set():
            sweep(tmp_path)

    sweeper = threading.Thread(target=sweeping)
    sweeper.start()
    try:
        for number in range(200):
            write_text(tmp_path / "file.txt", str(number))
            assert (tmp_path / "file.txt").read_text() == str(number)
            with scratch(tmp_path) as folder:
                (folder / "x").touch()
                assert (folder / "x").exists()
    finally:
        done.set()
        sweeper.join()
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]
