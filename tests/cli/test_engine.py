"""`--engine`: what carries a run, and what is said where it cannot."""

from __future__ import annotations

import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from cli.command import Layerline
from layerline.runtime.flower.local import TIDY, Deployment, app_settings


def test_flower_that_is_not_there_is_named_with_its_command(
    layerline: Layerline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "flwr", None)
    answer = layerline("train", "federated-digits", "--engine", "flower")
    assert answer.status == 2
    assert "pip install 'layerline[flower]'" in answer.err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["digits"], "federated"),
        (["federated-digits", "--average", "--exchange", "batch"], "per chapter"),
        (["dgl-cifar10"], "no streams"),
    ],
)
def test_runs_that_flower_cannot_carry_are_refused(layerline: Layerline, flags: list[str], said: str) -> None:
    pytest.importorskip("flwr")
    answer = layerline("train", *flags, "--engine", "flower")
    assert answer.status == 2
    assert said in answer.err


def test_nothing_is_told_to_anybody_unless_the_user_wants_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = Deployment(tmp_path, [])
    for name in TIDY:
        monkeypatch.delenv(name, raising=False)
    assert deployment.environment["FLWR_TELEMETRY_ENABLED"] == "0"
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    assert deployment.environment["FLWR_TELEMETRY_ENABLED"] == "1"


def test_the_example_hands_in_the_same_app_as_the_command_line() -> None:
    pytest.importorskip("flwr")
    example = tomllib.loads((Path(__file__).parents[2] / "examples" / "flower" / "pyproject.toml").read_text())
    ours = tomllib.loads(app_settings({}))
    components = example["tool"]["flwr"]["app"]["components"]
    assert components == ours["tool"]["flwr"]["app"]["components"]
    for reference in components.values():
        module, _, name = reference.partition(":")
        assert hasattr(import_module(module), name)
