"""Exit statuses and messages: what went wrong, what to do next, and no traceback."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import layerline as package
from cli.command import Layerline
from layerline.api import Result
from layerline.cli.commands import presets
from layerline.cli.training import carry_out
from layerline.errors import Stopped
from layerline.presets.presets import PRESETS
from layerline.run import Run

_PYTHON = [sys.executable, "-m", "layerline"]

_WRONG = [
    ("train", "the following arguments are required: PRESET|RUN.toml"),
    ("train digitz", "there is no preset 'digitz'; did you mean 'digits'?"),
    ("train digits --epoch 3", "unknown flag --epoch; did you mean '--epochs'?"),
    ("train digits --lrr=3", "unknown flag --lrr; did you mean '--lr'?"),
    ("train digits --qqqqqq", "unknown flag --qqqqqq\n"),
    ("train digits too-many", "'too-many' is one argument too many"),
    ("train digits --epochs", "--epochs: expected one argument"),
    ("train digits --epochs ten", "--epochs should be a valid integer, got ten"),
    ("train digits --epochs -1", "--epochs should be greater than or equal to 1, got -1"),
    ("train digits --lr nan", "--lr should be a finite number, got nan"),
    ("train digits --widths 0", "a block needs at least one unit"),
    ("train digits --widths 64,x", "--widths should be a valid integer, got x in 64,x"),
    ("train digits --widths 64", "the goodness readout leaves out 1 of 1 block(s)"),
    ("train digits --widths 64 --readout softmax", "the softmax readout leaves out 1 of 1 block(s)"),
    (
        "train dgl-cifar10 --head.widths 8,0 --head conv",
        "--head.widths should be greater than or equal to 1, got 0 in 8,0",
    ),
    (
        "train interlocking-shakespeare --attention-heads 3",
        "preset interlocking-shakespeare: network: a width of 128 cannot be shared by 3 attention heads\n",
    ),
    ("train digits --chapters 3", "3 chapters do not divide 40 epochs\n  try --chapters 2"),
    ("train digits --loss symbaa", "--loss: there is no 'symbaa'; did you mean 'symba'?"),
    ("train digits --order chapter", "--order: there is no 'chapter'; did you mean 'chapters'?"),
    ("train digits --theta 1", "--theta belongs to the logistic loss, but the loss is silu-margin"),
    ("train digits --readout all-heads", "Forward-Forward blocks have no heads for the all-heads readout"),
    ("train digits --negatives masked-hybrid", "masked-hybrid negatives know no labels"),
    ("train digits --dataset mnst", "there is no data set 'mnst'; did you mean 'mnist'?"),
    ("train digits --format xml", "--format: invalid choice: 'xml'"),
    ("train digits --config nowhere.toml", "cannot read nowhere.toml"),
    ("trian digits", "there is no command 'trian'; did you mean 'train'?"),
    ("--verson", "there is no flag '--verson'; did you mean '--version'?"),
    ("resume nowhere", "there is no folder nowhere"),
    ("resume nowhere --max-steps 8", "a run's settings stay as they were, --max-steps too"),
    ("train backprop-cifar10 --method gpipe --nodes 2 --timing async", "blocks can run freely only where no gradient"),
    (
        "train dgl-cifar10 --batch-size 10 --microbatches 6",
        "10 examples do not make 6 microbatches: of 2 there are 5\n  choose a --batch-size that 6 divides",
    ),
    (
        "train backprop-cifar10 --method ddp --nodes 2 --batch-size 1",
        "1 examples do not make 2 microbatches, 1 on each of 2 nodes",
    ),
    (
        "train dgl-cifar10 --nodes 2 --codec int8 --first exact",
        "--first would change nothing: what travels in a stream",
    ),
    ("train dgl-cifar10 --window 4", "--window would change nothing: there is one node"),
    ("train digits --fill reflect", "--fill would change nothing: nothing is shifted"),
    ("train dgl-cifar10 --shift 0 --fill black", "--fill would change nothing: nothing is shifted"),
    ("evaluate nowhere", "there is no model in nowhere"),
    ("predict nowhere image.png", "there is no model in nowhere"),
    ("cite nonsense-name", "there is no preset 'nonsense-name'"),
]


@pytest.mark.parametrize(("words", "message"), _WRONG)
def test_a_wrong_request_ends_with_2_and_says_why(layerline: Layerline, words: str, message: str) -> None:
    answer = layerline(*words.split())
    assert (answer.status, answer.out) == (2, "")
    assert f"error: {message}" in answer.err
    assert not Path("runs").exists()


def test_missing_data_ends_with_1_and_says_where_to_put_it(layerline: Layerline, tmp_path: Path) -> None:
    answer = layerline("train", "ff-mnist", "--no-download", "--data-dir", tmp_path)
    assert answer.status == 1
    assert f"error: mnist is neither in {tmp_path / 'mnist'}" in answer.err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ("--shift", "8"),
        ("--dataset", "x.npz", "--flip"),
        ("--dataset", "x.npz", "--negatives", "masked-hybrid", "--readout", "softmax"),
        ("--dataset", "x.npz", "--labels.position", "first"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_trained_leaves_no_folder(layerline: Layerline, flags: tuple[str, ...]) -> None:
    """Some of it shows only when network, data and trainer meet, after the folder's name was set aside."""
    np.savez("x.npz", x=np.eye(4, dtype=np.float32), y=np.arange(4))
    answer = layerline("train", "digits", *flags)
    assert answer.status == 2
    assert answer.err.startswith("error: ")
    assert not Path("runs").exists()
    assert layerline("train", "digits", *flags, "--out-dir", "run").status == 2
    assert not Path("run").exists()


def test_a_folder_with_something_in_it_is_never_overwritten(layerline: Layerline, digits_run: Path) -> None:
    before = sorted(digits_run.rglob("*"))
    answer = layerline("train", "digits", "--out-dir", digits_run)
    assert answer.status == 2
    assert f"error: {digits_run} is not empty, and a run is never overwritten\n" in answer.err
    assert sorted(digits_run.rglob("*")) == before


def test_a_folder_that_cannot_be_made(layerline: Layerline, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    answer = layerline("train", "digits", "--out-dir", tmp_path / "file" / "run")
    assert answer.status == 1
    assert f"error: cannot write {tmp_path / 'file' / 'run'}" in answer.err
    assert "--out-dir FOLDER" in answer.err


def test_no_arguments_print_the_help(layerline: Layerline) -> None:
    answer = layerline()
    assert (answer.status, answer.err) == (0, "")
    assert answer == layerline("--help") == layerline("help")
    assert all(name in answer.out for name in ("train", "resume", "evaluate", "predict", "presets", "env", "cite"))


def test_the_version(layerline: Layerline) -> None:
    assert layerline("--version") == (0, f"layerline {package.__version__}\n", "")


def test_the_help_of_train_names_every_choice(layerline: Layerline) -> None:
    answer = layerline("train", "--help")
    assert answer.status == 0
    assert answer.out.startswith("usage: layerline train PRESET|RUN.toml [--config FILE.toml] [flags]\n")
    for words in ("{fixed,random,adaptive,sampled,masked-hybrid}", "--beta, --objective.loss.beta X", "--no-flip"):
        assert words in answer.out


def test_the_help_says_what_a_flag_means_for_each_choice(layerline: Layerline) -> None:
    """It once said `(rms, l2, rms, l2)`, and of all of them what rms does."""
    text = " ".join(layerline("train", "--help").out.split())
    assert "--network.normaliser.eps X (rms) Added to the mean square. (l2) Added to the length" in text
    assert "(goodness, softmax) Blocks left out at the start; the papers: 1. (all-heads) Blocks" in text
    assert "(mlp, own) Before every block" in text


def test_presets_env_and_cite(layerline: Layerline, digits_run: Path) -> None:
    assert [p.name for p in PRESETS] == [
        p["name"] for p in json.loads(layerline("presets", "--format", "json").out)["presets"]
    ]
    assert all(p.title in layerline("presets").out for p in PRESETS)
    assert "torch" in layerline("env").out
    assert "torch" in json.loads(layerline("env", "--format", "json").out)
    assert "hinton2022forward" in layerline("cite", "ff-mnist").out
    assert layerline("cite", digits_run) == layerline("cite", "digits") == layerline("cite")


def test_debugging_shows_the_traceback(layerline: Layerline, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Traceback" not in layerline("train", "digitz").err
    monkeypatch.setenv("LAYERLINE_DEBUG", "1")
    answer = layerline("train", "digitz")
    assert answer.status == 2
    assert "Traceback" in answer.err
    assert answer.err.endswith("error: there is no preset 'digitz'; did you mean 'digits'?\n")


def test_ctrl_c_outside_of_training_ends_with_130(layerline: Layerline, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(presets, "run", interrupted)
    assert layerline("presets") == (130, "", "\ninterrupted\n")


def test_a_stopped_run_is_resumed_with_its_data_folder() -> None:
    """Without it the command would look elsewhere, and download the set."""

    def stopped(listener: object, stop: object) -> Result:
        raise Stopped("stopped", exit_status=75, hint="go on with: layerline resume run")

    for data_dir, hint in ((None, "resume run"), ("my data", "resume run --data-dir 'my data'")):
        with pytest.raises(Stopped) as error:
            carry_out(stopped, Run(), argparse.Namespace(data_dir=data_dir, quiet=True, format="text"))
        assert error.value.hint == f"go on with: layerline {hint}"


def test_nobody_reads_the_output() -> None:
    process = subprocess.Popen([*_PYTHON, "presets"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (141, b"")


def test_a_terminal_without_unicode() -> None:
    plain = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run([*_PYTHON, "presets"], capture_output=True, env=os.environ | plain, check=True, timeout=60)
    assert b"8?8 digits" in done.stdout


def test_the_light_commands_import_no_torch() -> None:
    calls = "main(['--help']); main(['presets']); sys.exit('torch' in sys.modules)"
    code = f"import sys; from layerline.cli.main import main; {calls}"
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True, timeout=60)
