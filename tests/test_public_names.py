"""The public names are frozen: a change here is a change for every user, and goes into the changelog."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import layerline

NAMES = """
    train resume load evaluate Result
    Run StreamRun Augment preset LayerlineClassifier Model
    Conv Dni Vgg ResNet Transformer
    Dataset Examples from_arrays load_dataset LabelInput
    split_at split_into split_each Mlp LinearReLU RmsNorm L2Norm NoNorm
    Fixed Random Adaptive Sampled MaskedHybrid
    ForwardForward LocalCrossEntropy Backprop Logistic SymBa SiluMargin
    CutLayers CutCount CutAt MlpSrHead MlpHead CnnHead ConvHead PooledHead UnembeddingHead SharedUnembeddingHead
    AugLocalHead ManHead Sgd AdamW Sync Async Recorded Bf16Outputs Int8Outputs VectorQuantised Fp32 Bf16 Int8
    Adam Constant CoolDown Cosine
    Goodness Softmax LastHead AllHeads
    LayerlineError UsageError DataError CheckpointError Stopped
    __version__
"""


def test_the_public_names_are_these() -> None:
    assert sorted(vars(layerline)["__all__"]) == sorted(NAMES.split())


def test_every_name_is_what_it_is_called() -> None:
    for name in set(NAMES.split()) - {"__version__"}:
        assert getattr(layerline, name).__name__ == name
    assert isinstance(layerline.__version__, str)
    assert set(NAMES.split()) <= set(dir(layerline))


def test_type_checkers_are_told_the_same() -> None:
    stub = ast.parse(Path(layerline.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    told = {
        alias.asname: f"{node.module}.{alias.name}"
        for node in ast.walk(stub)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert told == {name: f"layerline.{home}.{name}" for name, home in vars(layerline)["_HOME"].items()}


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(layerline, "trian")


def test_importing_layerline_does_not_wait_for_torch() -> None:
    code = "import sys, layerline; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    source = str(Path(layerline.__file__).parents[1])
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": source})
