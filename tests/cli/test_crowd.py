"""More processes than cores: said once, where nobody chose their number."""

from __future__ import annotations

import argparse

import pytest

from layerline.cli import training
from layerline.presets.presets import preset


def _said(capsys: pytest.CaptureFixture[str], name: str, **chosen: object) -> str:
    given = {"engine": None, "processes": None, "restarts": 1, "quiet": False} | chosen
    training.processes(preset(name).run.replace(nodes=3), argparse.Namespace(**given))
    return capsys.readouterr().err


def test_a_note_names_the_number_that_fits(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty nodes on two cores once ended in the kernel's out-of-memory killer, without a word before."""
    monkeypatch.setattr(training, "usable_cores", lambda: 2)
    assert "3 processes on 2 cores: --processes 2 " in _said(capsys, "pff-mnist")
    assert "--processes 2 " in _said(capsys, "dgl-cifar10")
    assert _said(capsys, "pff-mnist", processes=3) == "", "it was asked for"
    assert _said(capsys, "pff-mnist", quiet=True) == ""
    assert _said(capsys, "dgl-async-cifar10") == "", "each block runs freely in a process of its own"
    monkeypatch.setattr(training, "usable_cores", lambda: 3)
    assert _said(capsys, "pff-mnist") == ""
