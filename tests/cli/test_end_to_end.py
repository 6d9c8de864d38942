"""Real processes: train, evaluate, predict, stop, resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_LAYERLINE = [sys.executable, "-m", "layerline"]
_SMALL = ["--widths", "64,64", "--threads", "1"]


def _call(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*_LAYERLINE, *words], cwd=folder, capture_output=True, text=True, timeout=100)


def _json(folder: Path, *words: str) -> dict[str, Any]:
    """The one line of JSON on standard output."""
    done = _call(folder, *words, "--format", "json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    values: dict[str, Any] = json.loads(done.stdout)
    return values


def test_train_evaluate_predict(tmp_path: Path) -> None:
    values = _json(tmp_path, "train", "digits", "--epochs", "2", *_SMALL)
    run_dir = tmp_path / values["run_dir"]
    assert run_dir.parent == tmp_path / "runs" / "digits"
    assert values == json.loads((run_dir / "result.json").read_text())
    assert (values["epochs"], values["chapters"], values["threads"], values["seed"]) == (2, 2, 1, 0)
    assert 0.3 < values["test_accuracy"] < 1

    assert _json(tmp_path, "evaluate", values["run_dir"])["test_accuracy"] == values["test_accuracy"]

    (tmp_path / "two.csv").write_text("\n".join([",".join(["0"] * 64), ",".join(["255"] * 64)]) + "\n")
    predictions = _json(tmp_path, "predict", values["run_dir"], "two.csv")["predictions"]
    assert [p["image"] for p in predictions] == ["two.csv:1", "two.csv:2"]
    for p in predictions:
        assert p["scores"][p["class"]] == max(p["scores"].values())
        assert list(p["scores"]) == list("0123456789")


def test_text_says_how_well_and_where(tmp_path: Path) -> None:
    done = _call(tmp_path, "train", "digits", "--epochs", "1", *_SMALL, "--out-dir", "here")
    assert done.returncode == 0
    assert "test accuracy" in done.stdout
    assert "here/model" in done.stdout
    assert "epoch 1/1" in done.stderr
    quiet = _call(tmp_path, "train", "digits", "--epochs", "1", *_SMALL, "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


def test_a_data_set_of_ones_own_is_found_again(tmp_path: Path) -> None:
    import numpy as np

    labels = np.arange(40) % 2
    np.savez(tmp_path / "own.npz", x=np.eye(12, dtype=np.float32)[labels], y=labels)
    words = ["--dataset", "own.npz", "--epochs", "1", *_SMALL, "--out-dir", "run"]
    first = _json(tmp_path, "train", "digits", *words)
    assert _json(tmp_path, "resume", "run")["weights_sha256"] == first["weights_sha256"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("undisturbed")
    sha: str = _json(folder, "train", "digits", "--epochs", "120", *_SMALL, "--quiet")["weights_sha256"]
    return sha


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_stopped_and_resumed_ends_the_same(tmp_path: Path, undisturbed: str, number: int, status: int) -> None:
    words = ["train", "digits", "--epochs", "120", *_SMALL, "--out-dir", "run"]
    process = subprocess.Popen(
        [*_LAYERLINE, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch 2/"):
            break
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (status, "")
    assert "training was stopped and saved after" in err
    assert "error" not in err
    assert "go on with: layerline resume run\n" in err
    assert _call(tmp_path, "predict", "run", "x.png").returncode == 2  # not finished, so there is no model
    assert _json(tmp_path, "resume", "run", "--quiet")["weights_sha256"] == undisturbed


def _terminated_while_reading(folder: Path, image: Path, *words: str) -> tuple[int, str]:
    """Exit status and standard error of a process that got SIGTERM while it waited for the content of an image."""
    image.unlink()
    os.mkfifo(image)
    with subprocess.Popen([*_LAYERLINE, *words], cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        writer = os.open(image, os.O_WRONLY)  # waits for the reader
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        os.close(writer)
    return process.returncode, err


def test_terminated_while_reading_data(tmp_path: Path) -> None:
    """It used to end with 143 and without a word, also where there was a run to go on with."""
    from PIL import Image

    for label, grey in (("dark", 20), ("light", 220)):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(4):
            Image.new("L", (4, 4), grey + number).save(tmp_path / "images" / label / f"{number}.png")
    words = ["train", "digits", "--dataset", "images", "--epochs", "1", *_SMALL]
    assert _call(tmp_path, *words, "--out-dir", "run").returncode == 0
    image = tmp_path / "images" / "light" / "2.png"

    status, err = _terminated_while_reading(tmp_path, image, *words, "--out-dir", "other")
    assert status == 143
    assert err == "\nterminated before training began; there is nothing to resume\n"
    assert not (tmp_path / "other").exists()

    status, err = _terminated_while_reading(tmp_path, image, "resume", "run")
    assert status == 75
    assert err == "terminated before training went on\n  go on with: layerline resume run\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_while_pytorch_is_imported(number: signal.Signals) -> None:
    """An exception raised there came up in C++ now and then: the process aborted and showed some ninety frames."""
    says, status = {signal.SIGINT: ("interrupted", 130), signal.SIGTERM: ("terminated", 143)}[number]
    program = (
        "import os, sys\n"
        "from layerline.cli.main import main\n"
        "class Sent:\n"  # in the middle of `import torch`
        "    def find_spec(self, name, *_):\n"
        f"        if name == 'torch.nn': os.kill(os.getpid(), {int(number)})\n"
        "sys.meta_path.insert(0, Sent())\n"
        "try: main(['train', 'digits'])\n"
        "except BaseException: print('raised')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", f"\n{says}\n")
