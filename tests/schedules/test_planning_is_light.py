"""Planning imports no PyTorch, and a hundred thousand slots are a matter of a second or two."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import layerline


def _python(code: str) -> str:
    source = str(Path(layerline.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env={"PYTHONPATH": source}
    )
    return done.stdout


def test_the_command_plans_simulates_and_compares_without_torch() -> None:
    code = """
import sys
from layerline.cli.main import main
for more in (["--compare"], ["--format", "json"], ["--negatives", "adaptive", "--readout", "softmax"]):
    status = main(["plan", "--blocks", "5", "--schedule", "single-layer", "--nodes", "3", *more])
    assert status == 0
assert "torch" not in sys.modules
"""
    assert "Choose --schedule" in _python(code)


def test_a_hundred_thousand_slots_without_torch() -> None:
    code = """
import sys
from layerline.cli.main import main
words = "plan --blocks 100 --width 2000 --schedule all-layers --nodes 100 --chapters 1000"
assert main(words.split()) == 0
assert "torch" not in sys.modules
"""
    assert "100,000 slots" in _python(code)
