"""`--engine`: what carries a run, and what is said where it cannot."""

from __future__ import annotations

import sys
import tomllib
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import layerline as ll
from cli.command import Layerline
from layerline.data.digits import load_digits
from layerline.errors import UsageError
from layerline.presets.presets import preset
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
        (["federated-digits", "--beside", "none", "--average", "--exchange", "batch"], "per chapter"),
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


@pytest.mark.parametrize(
    ("given", "who"),
    [({"engine": "flower"}, "participants"), ({"processes": 2}, "other processes")],
)
def test_what_others_cannot_see_is_refused(given: dict[str, Any], who: str, tmp_path: Path) -> None:
    """Before anything is read or made: data in memory, and results that have no folder."""
    run = preset("federated-digits").run
    own = replace(load_digits(), name="my own")
    with pytest.raises(UsageError, match=f"{who} cannot be handed data"):
        ll.train(run, data=own, out_dir=tmp_path / "run", **given)
    with pytest.raises(UsageError, match=f"{who} leave their results in a folder"):
        ll.train(run, **given)
    assert not (tmp_path / "run").exists()
