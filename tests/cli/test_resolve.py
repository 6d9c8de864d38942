"""Flag over file over preset, and components that change their kind on the way."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from layerline.cli import resolve as resolving
from layerline.errors import UsageError
from layerline.negatives.labels import Adaptive
from layerline.objectives.forward_forward import ForwardForward
from layerline.objectives.local_cross_entropy import LocalCrossEntropy
from layerline.objectives.losses import Logistic, SiluMargin, SymBa
from layerline.presets.presets import PRESETS, preset
from layerline.readouts.readouts import AllHeads, Goodness, LastHead, Softmax
from layerline.run import Run
from layerline.schedules.single_layer import SingleLayer


def resolve(*words: Any, **flags: Any) -> Run:
    """As `resolve`, for presets that are trained in chapters or side by side."""
    run = resolving.resolve(*words, **flags)
    assert isinstance(run, Run)
    return run


def _toml(folder: Path, text: str, name: str = "run.toml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", [p.name for p in PRESETS])
def test_a_preset_alone_is_its_run(name: str) -> None:
    assert resolving.resolve(name) == preset(name).run


def test_a_run_saved_as_toml_comes_back_whole(tmp_path: Path) -> None:
    run = preset("local-ce-mnist").run.replace(seed=7, threads=2)
    assert resolve(_toml(tmp_path, run.to_toml())) == run


def test_flag_over_file_over_preset(tmp_path: Path) -> None:
    config = _toml(tmp_path, "batch_size = 32\nseed = 1\n[objective.loss]\nbeta = 3.0\n")
    run = resolve("digits", config, {"seed": 2})
    assert (run.seed, run.batch_size, run.epochs) == (2, 32, preset("digits").run.epochs)
    assert run.objective == ForwardForward(loss=SiluMargin(beta=3.0))


def test_another_number_of_nodes_leaves_out_what_was_said_of_each(tmp_path: Path) -> None:
    """A free run over two nodes could not be done again by one: --nodes 1 was refused for the file's speeds."""
    free = _toml(tmp_path, 'kind = "stream"\npreset = "dgl-async-cifar10"\nnodes = 2\nspeeds = [1, 2]\nowns = [3, 2]\n')
    said: list[str] = []
    alone = resolving.resolve(free, flags={"nodes": 1}, say=said.append)
    assert alone == preset("dgl-async-cifar10").run
    assert "of 2 nodes are left out" in said[0]
    assert resolving.resolve(free, flags={"nodes": 3, "speeds": [1, 1, 2]}).speeds == (1, 1, 2)
    assert resolving.resolve(free, flags={"nodes": 2, "seed": 3}).speeds == (1, 2)

    owned = 'preset = "pff-mnist"\nnodes = 2\n[schedule]\nkind = "single-layer"\nowns = [1, 3]\n'
    assert resolve(_toml(tmp_path, owned, "pff.toml"), flags={"nodes": 4}).schedule == SingleLayer()


def test_a_file_lies_over_the_preset_it_names(tmp_path: Path) -> None:
    run = resolve(_toml(tmp_path, 'preset = "pff-mnist"\nepochs = 20\nchapters = 10\n'))
    assert run == preset("pff-mnist").run.replace(epochs=20, chapters=10)


def test_a_file_without_a_preset_lies_over_the_defaults(tmp_path: Path) -> None:
    assert resolve(_toml(tmp_path, "epochs = 3\n")) == Run(epochs=3)


def test_a_file_over_a_file(tmp_path: Path) -> None:
    start = _toml(tmp_path, 'preset = "digits"\nseed = 1\nepochs = 6\n')
    run = resolve(start, _toml(tmp_path, "seed = 2\n", "over.toml"))
    assert run == preset("digits").run.replace(seed=2, epochs=6)


def test_the_same_kind_keeps_the_settings_below_it() -> None:
    run = resolve("ff-mnist", flags={"objective.loss": "silu-margin"})
    assert run == preset("ff-mnist").run


def test_another_kind_starts_from_its_own_defaults() -> None:
    run = resolve("digits", flags={"objective.loss": "symba", "negatives": "adaptive"})
    assert run.objective == ForwardForward(loss=SymBa())
    assert run.negatives == Adaptive()


def test_settings_of_a_component_need_not_name_its_default_kind() -> None:
    run = resolve("local-ce-mnist", flags={"objective": "forward-forward", "objective.loss.beta": 9.0})
    assert run.objective == ForwardForward(loss=SiluMargin(beta=9.0))


def test_a_setting_of_the_chosen_kind_may_come_with_it() -> None:
    run = resolve("digits", flags={"objective.loss": "logistic", "objective.loss.theta": 2.0})
    assert run.objective == ForwardForward(loss=Logistic(theta=2.0))


def test_another_kind_in_a_file_starts_from_its_own_defaults(tmp_path: Path) -> None:
    config = _toml(tmp_path, '[objective.loss]\nkind = "logistic"\n')
    assert resolve("digits", config).objective == ForwardForward(loss=Logistic())


def test_none_leaves_a_setting_open() -> None:
    assert resolve("pff-mnist", flags={"chapters": None, "epochs": 30}).chapter_count == 30


def test_another_objective_brings_the_readout_that_reads_it() -> None:
    said: list[str] = []
    run = resolve("ff-mnist", flags={"objective": "local-cross-entropy"}, say=said.append)
    assert (run.objective, run.readout) == (LocalCrossEntropy(), AllHeads())
    assert said == ["readout all-heads, as local-cross-entropy has no goodness to read (--readout chooses)"]
    assert resolve("local-ce-mnist", flags={"objective": "backprop"}).readout == LastHead()
    run = resolve("local-ce-mnist", flags={"objective": "forward-forward"}, say=said.append)
    assert run.readout == Goodness()


def test_a_readout_that_reads_any_objective_stays(tmp_path: Path) -> None:
    config = _toml(tmp_path, '[readout]\nkind = "softmax"\n')
    assert resolve("ff-mnist", config, {"objective": "local-cross-entropy"}).readout == Softmax()


def test_a_readout_somebody_named_is_never_replaced() -> None:
    with pytest.raises(UsageError, match="no goodness to read"):
        resolve("ff-mnist", flags={"objective": "local-cross-entropy", "readout": "goodness"})


_WRONG_FLAGS = [
    (
        {"objective.loss.theta": 1.0},
        "--theta belongs to the logistic loss, but the loss is silu-margin\n.*--loss logistic",
    ),
    (
        {"objective": "local-cross-entropy", "objective.loss.beta": 1.0},
        "--beta belongs to the forward-forward objective, but the objective is local-cross-entropy",
    ),
    ({"negatives.blurs": 2}, "--blurs belongs to the masked-hybrid negatives, but the negatives are random"),
    ({"rate": "constant", "rate.warmup": 1.0}, "--warmup belongs to the cosine rate, but the rate is constant"),
    (
        {"objective": "local-cross-entropy", "negatives": "fixed"},
        "--negatives would change nothing: the local-cross-entropy objective needs no negatives",
    ),
    ({"objective": "local-cross-entropy", "labels.strength": 3.0}, "--strength would change nothing"),
    ({"optimizer.head_lr": 0.1}, "--head-lr would change nothing: the goodness readout has no softmax head"),
    ({"chapters": 3}, "3 chapters do not divide 40 epochs\n.*--chapters 2"),
    ({"network.widths": [0]}, "at least one unit"),
    ({"network.widths": [5], "readout": "softmax"}, "the softmax readout leaves out 1 of 1 block"),
]


@pytest.mark.parametrize(("flags", "message"), _WRONG_FLAGS)
def test_flags_that_cannot_work(flags: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve("digits", flags=flags)


def test_the_head_that_judges_negatives_has_a_learning_rate() -> None:
    """It was refused as if only a softmax readout had one."""
    flags = {"negatives": "sampled", "negatives.judge": "first-block", "optimizer.head_lr": 0.1}
    assert resolve("digits", flags=flags).optimizer.head_lr == 0.1


_WRONG_FILES = [
    ("lr = 3", "unknown setting .*'lr'; did you mean 'optimizer.lr'"),
    ("epoch = 3", "unknown setting .*'epoch'; did you mean 'epochs'"),
    ("[objective.loss]\nbta = 3", "unknown setting .*'objective.loss.bta'; did you mean 'beta'"),
    (
        "[objective.loss]\ntheta = 3",
        "'objective.loss.theta' belongs to the logistic loss, but the loss is silu-margin\n"
        '.*kind = "logistic" in \\[objective.loss\\]',
    ),
    ('[objective]\nkind = "forward"', "'objective': there is no 'forward'; did you mean 'forward-forward'"),
    ('negatives = "adaptive"', "'negatives' is a table, got 'adaptive'\n.*\\[negatives\\]"),
    ("augment = 2", "'augment' is a table, got 2"),
    ('kind = "run"', "no kind 'run' of runs"),
    ('preset = "digitz"', "there is no preset 'digitz'; did you mean 'digits'"),
    ("epochs = -1", "run.toml: epochs: .*greater than or equal to 1, got -1"),
    ("epochs = ", "is not TOML"),
]


@pytest.mark.parametrize(("text", "message"), _WRONG_FILES)
def test_files_that_cannot_work(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(_toml(tmp_path, text))


def test_a_config_over_another_preset_is_refused(tmp_path: Path) -> None:
    config = _toml(tmp_path, 'preset = "ff-mnist"\n')
    with pytest.raises(UsageError, match="lies over the preset ff-mnist, not digits"):
        resolve("digits", config)


def test_the_folder_of_a_run_is_no_preset(digits_run: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(f"layerline train {digits_run}/config.toml")):
        resolve(str(digits_run))


def test_a_missing_file() -> None:
    with pytest.raises(UsageError, match=r"cannot read nowhere.toml: No such file"):
        resolve("nowhere.toml")


def test_families_are_not_mixed(tmp_path: Path) -> None:
    mixed = _toml(tmp_path, 'kind = "stream"\npreset = "digits"\n')
    with pytest.raises(UsageError, match="preset digits trains in chapters or side by side"):
        resolving.resolve(mixed)
    stream = _toml(tmp_path, 'kind = "stream"\nreach = 2\n', "stream.toml")
    with pytest.raises(UsageError, match="describes a stream, and digits is none"):
        resolving.resolve("digits", stream)
    assert resolving.resolve("dgl-cifar10", stream).to_dict()["reach"] == 2
