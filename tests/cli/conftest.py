"""The command line called in this process, and one small trained run."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.command import Answer, Layerline
from layerline import api
from layerline.cli.main import main
from layerline.presets.presets import preset


@pytest.fixture
def layerline(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Layerline:
    """`layerline("train", "digits")` in an empty folder: exit status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LAYERLINE_DEBUG", raising=False)
    monkeypatch.delenv("LAYERLINE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def call(*words: object) -> Answer:
        status = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return Answer(status, out, err)

    return call


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run on 8x8 digits."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    run = preset("digits").run
    small = run.network.model_copy(update={"widths": (32, 32)})
    api.train(run.replace(epochs=2, chapters=None, network=small, threads=1), out_dir=folder)
    return folder
