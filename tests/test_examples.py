"""The examples run, and print what they say they print."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
NUMBER = re.compile(r"\d+\.\d+")


def promised(example: Path) -> list[str]:
    """The indented lines of the docstring."""
    text = ast.get_docstring(ast.parse(example.read_text(encoding="utf-8"))) or ""
    return [line.strip() for line in text.splitlines() if line.startswith("    ")]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_prints_what_it_promises(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(example))
    printed = capsys.readouterr().out.splitlines()
    for line, expected in zip(printed, promised(example), strict=True):
        assert NUMBER.sub("#", line) == NUMBER.sub("#", expected)
        numbers = [float(number) for number in NUMBER.findall(line)]
        # Another machine rounds otherwise; two points are more than that moves an accuracy.
        assert numbers == pytest.approx([float(number) for number in NUMBER.findall(expected)], abs=2)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_tutorial_shows_the_same(example: Path) -> None:
    tutorial = (ROOT / "docs" / "tutorials" / "python.md").read_text(encoding="utf-8")
    code = example.read_text(encoding="utf-8").split('"""', 2)[2].strip()
    assert code in tutorial
    for line in promised(example):
        assert line in tutorial
