"""Checkpoints: whole or refused with a reason, and the last good one survives whatever happens to the next."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from torch import Tensor, nn

from layerline.errors import CheckpointError, LayerlineError, UsageError
from layerline.events import Evaluated, Row
from layerline.files import sha256_of
from layerline.runtime.checkpoint import Checkpoints, Progress
from layerline.runtime.execute import Execution, make_trainer
from layerline.runtime.model import build_model
from layerline.runtime.saved import load_model, save_model, weights_sha256
from layerline.runtime.stop import Stop
from layerline.runtime.training import Cursor
from small_runs import LOCAL, fresh_model, small_data, small_run, train_through

CPU = torch.device("cpu")
DATA = small_data(count=37)
RUN = small_run()
TENSORS = {"a": torch.arange(6.0).view(2, 3), "steps": torch.tensor(3.0), "n": torch.tensor([1, 2])}
PROGRESS = Progress(
    1.5, [Row(1, "2", 0.5, 0.25, 1.0, 2.0), Row(1, "head", 0.5, 0.25)], [Evaluated(1, "test", 0.75, 1.25)]
)


def saved(folder: Path) -> Path:
    return Checkpoints(folder, "r", "d").save(TENSORS, Cursor(1, 2, 3), PROGRESS, 17)


def load(folder: Path, run: str = "r", data: str = "d") -> Any:
    return Checkpoints(folder, run, data).load(CPU)


def rewrite(folder: Path, **changes: Any) -> None:
    latest = folder / "latest.json"
    latest.write_text(json.dumps(json.loads(latest.read_text()) | changes))


def test_round_trip(tmp_path: Path) -> None:
    assert load(tmp_path) is None
    assert saved(tmp_path).name == "00000017.safetensors"
    tensors, cursor, progress = load(tmp_path)
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor)
        assert tensors[name].dtype == tensor.dtype
    assert cursor == Cursor(1, 2, 3)
    assert asdict(progress) == asdict(PROGRESS)


def test_only_the_last_is_kept_and_leftovers_go(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / ".killed.part").mkdir()
    (tmp_path / ".killed.part/00000018.safetensors").write_bytes(b"of a process that was killed")
    Checkpoints(tmp_path, "r", "d").save(TENSORS, Cursor(), PROGRESS, 19)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000019.safetensors", "latest.json"]


def test_tied_parameters(tmp_path: Path) -> None:
    """safetensors refuses tensors that share memory; tied weights are such."""
    tensor = torch.arange(4.0)
    named = {"a": tensor, "b": tensor, "c": tensor[1:3], "d": tensor.view(2, 2).t()}
    Checkpoints(tmp_path, "r", "d").save(named, Cursor(), PROGRESS, 1)
    tensors, _, _ = load(tmp_path)
    assert all(torch.equal(tensors[name], named[name]) for name in named)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda f: cut(next(f.glob("*.safetensors")), -9), "its SHA-256 is not the one recorded"),
    "empty": (lambda f: next(f.glob("*.safetensors")).write_bytes(b""), "its SHA-256 is not"),
    "flipped bit": (lambda f: flip(next(f.glob("*.safetensors")), -3), "its SHA-256 is not"),
    "missing tensors": (
        lambda f: next(f.glob("*.safetensors")).unlink(),
        "names 00000017.safetensors, which is missing",
    ),
    "a folder instead": (lambda f: become_folder(next(f.glob("*.safetensors"))), "which is missing"),
    "empty json": (lambda f: (f / "latest.json").write_text(""), "latest.json cannot be read"),
    "cut json": (lambda f: cut(f / "latest.json", -5), "latest.json cannot be read"),
    "binary json": (lambda f: (f / "latest.json").write_bytes(b"\xff\xfe\x00{"), "latest.json cannot be read"),
    "a list": (lambda f: (f / "latest.json").write_text("[1]"), "not a table"),
    "a number": (lambda f: (f / "latest.json").write_text("7"), "not a table"),
    "empty table": (lambda f: (f / "latest.json").write_text("{}"), "cannot be read: no cursor"),
    "a folder as json": (lambda f: become_folder(f / "latest.json"), "cannot be read"),
    "other format": (lambda f: rewrite(f, format=2), "has format 2, this version reads 1"),
    "text cursor": (lambda f: rewrite(f, cursor={"epoch": "1", "block": 0, "batch": 0}), "latest.json is damaged"),
    "long cursor": (lambda f: rewrite(f, cursor={"epoch": 1, "block": 0, "batch": 0, "x": 0}), "damaged"),
    "no cursor": (lambda f: rewrite(f, cursor=None), "damaged"),
    "no progress": (lambda f: rewrite(f, progress=None), "damaged"),
    "odd rows": (lambda f: rewrite(f, progress={"train_seconds": 1, "rows": [{}], "curve": []}), "damaged"),
    "not safetensors": (lambda f: forge(f, b"{}"), "is not a safetensors file"),
}


def become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def cut(path: Path, end: int) -> None:
    path.write_bytes(path.read_bytes()[:end])


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def forge(folder: Path, content: bytes) -> None:
    """Other content under the right digest."""
    path = next(folder.glob("*.safetensors"))
    path.write_bytes(content)
    rewrite(folder, sha256=sha256_of(path))


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_refused(damage: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    saved(tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=message) as refused:
        load(tmp_path)
    assert "\n" not in refused.value.what


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_flipped_byte_is_noticed(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("checkpoint")
    path = saved(folder)
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="SHA-256"):
        load(folder)


def test_another_runs_checkpoint_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(CheckpointError, match=r"belongs to another run: config.toml was changed"):
        load(tmp_path, run="other")
    with pytest.raises(CheckpointError, match="was trained on other data") as refused:
        load(tmp_path, data="other")
    assert refused.value.hint is not None
    assert "--data-dir" in refused.value.hint


def test_changed_settings_and_data_are_foreign(tmp_path: Path) -> None:
    train_through(RUN, DATA, [], tmp_path)
    with pytest.raises(CheckpointError, match="another run"):
        train_through(RUN.replace(seed=1), DATA, [], tmp_path)
    with pytest.raises(CheckpointError, match="other data"):
        train_through(RUN, small_data(count=37, seed=1), [], tmp_path)


@pytest.mark.parametrize(
    "cursor",
    [Cursor(3), Cursor(-1), Cursor(0, 3), Cursor(0, -1), Cursor(0, 0, 3), Cursor(0, 0, -1), Cursor(0, 0, 10**15)],
    ids=str,
)
@pytest.mark.parametrize("order", ["chapters", "simultaneous"])
def test_a_cursor_out_of_range_is_refused(order: str, cursor: Cursor, tmp_path: Path) -> None:
    run = small_run(order=order)
    trainer = make_trainer(build_model(run, DATA), DATA)
    checkpoints = Checkpoints(tmp_path, run.digest(), DATA.digest())
    checkpoints.save(trainer.tensors(), cursor, Progress(), 1)
    execution = Execution(trainer, DATA, checkpoints, lambda event: None, Stop())
    with pytest.raises(CheckpointError, match=r"does not fit.*no minibatch"):
        execution.restore()


@pytest.mark.parametrize("widths", [[9, 8], [9, 8, 6], [9, 8, 1]])
def test_tensors_of_another_network_are_refused(widths: list[int], tmp_path: Path) -> None:
    """Also those that would broadcast: a layer of one unit is no layer of seven."""
    other = small_run(network={"kind": "mlp", "widths": widths})
    tensors = make_trainer(build_model(other, DATA), DATA).tensors()
    Checkpoints(tmp_path, RUN.digest(), DATA.digest()).save(tensors, Cursor(), Progress(), 1)
    with pytest.raises(CheckpointError, match="does not fit this network"):
        train_through(RUN, DATA, [], tmp_path)


def test_records_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    tensors = make_trainer(build_model(RUN, DATA), DATA).tensors()
    tensors["record.0"] = torch.zeros(5)
    Checkpoints(tmp_path, RUN.digest(), DATA.digest()).save(tensors, Cursor(0, 0, 1), Progress(), 1)
    with pytest.raises(CheckpointError, match="does not fit this network"):
        train_through(RUN, DATA, [], tmp_path)


FULL = """
import resource, sys
from pathlib import Path
import torch
from layerline.errors import LayerlineError
from layerline.runtime.checkpoint import Checkpoints, Progress
from layerline.runtime.training import Cursor

checkpoints = Checkpoints(Path(sys.argv[1]), "r", "d")
for limit in sys.argv[2:]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    try:
        checkpoints.save({"a": torch.ones(100_000)}, Cursor(9), Progress(), 99)
    except LayerlineError as error:
        print(error.what)
"""


def test_no_room_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    """The file size limit stands in for a full disk: writing fails at once, at the header, half way."""
    saved(tmp_path)
    ended = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), "0", "100", "70000"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count(f"cannot write {tmp_path}/00000099.safetensors") == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000017.safetensors", "latest.json"]
    assert load(tmp_path)[1] == Cursor(1, 2, 3)


def test_no_room_for_the_second_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tensors are written, `latest.json` is not: it still names the older file, which must still be there."""
    saved(tmp_path)

    def full(path: Path, text: str) -> None:
        raise LayerlineError(f"cannot write {path}: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("layerline.runtime.checkpoint.write_text", full)
        with pytest.raises(LayerlineError, match="No space left"):
            Checkpoints(tmp_path, "r", "d").save(TENSORS, Cursor(9), PROGRESS, 99)
    assert load(tmp_path)[1] == Cursor(1, 2, 3)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LayerlineError, match="cannot write") as refused:
        saved(tmp_path / "file" / "checkpoints")
    assert refused.value.hint == "choose another folder: --out-dir FOLDER"


def test_no_room_for_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """safetensors has an error of its own for a full disk; the end of a run showed it as a traceback."""

    def full(tensors: dict[str, Tensor], path: Path) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("layerline.runtime.checkpoint.save_file", full)
    with pytest.raises(LayerlineError, match=r"cannot write .*model.safetensors: .*No space left") as refused:
        save_model(build_model(RUN, DATA), tmp_path)
    assert refused.value.hint == "the last checkpoint is whole: layerline resume RUN_DIR"


# The saved model -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, LOCAL, {"readout": {"kind": "softmax"}}, {"precision": "bf16-mixed"}])
def test_a_saved_model_predicts_the_same(changes: dict[str, Any], tmp_path: Path) -> None:
    model = train_through(small_run(**changes), DATA, []).model
    save_model(model, tmp_path / "model")
    for path in (tmp_path, tmp_path / "model"):
        loaded = load_model(path)
        assert weights_sha256(loaded) == weights_sha256(model)
        assert loaded.run == model.run
        assert torch.equal(loaded.scores(DATA.train.inputs), model.scores(DATA.train.inputs))


class Tied(nn.Module):
    """Two layers with one weight, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(25, 25), nn.Linear(25, 25)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.second(self.first(x.flatten(1)).relu()).relu()


def own_blocks() -> list[nn.Module]:
    return [Tied(), nn.Sequential(nn.Linear(25, 6), nn.BatchNorm1d(6), nn.ReLU())]


def test_own_modules_with_tied_weights(tmp_path: Path) -> None:
    expected = train_through(RUN, DATA, [], blocks=own_blocks)
    outcome = train_through(RUN, DATA, [2, 1], tmp_path / "checkpoints", own_blocks)
    assert outcome.sha256 == expected.sha256
    save_model(outcome.model, tmp_path / "model")
    with pytest.raises(UsageError, match="modules of your own"):
        load_model(tmp_path)
    loaded = load_model(tmp_path, own_blocks())
    assert weights_sha256(loaded) == expected.sha256
    assert torch.equal(loaded.predict(DATA.train.inputs), outcome.model.predict(DATA.train.inputs))
    with pytest.raises(CheckpointError, match="does not fit the modules that were handed in"):
        load_model(tmp_path, [Tied(), nn.Linear(25, 6)])


def test_damaged_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no model in"):
        load_model(tmp_path)
    (tmp_path / "config.toml").write_text(RUN.to_toml())
    with pytest.raises(UsageError, match="is not finished"):
        load_model(tmp_path)
    folder = tmp_path / "model"
    save_model(build_model(RUN, DATA), folder)
    facts = (folder / "model.json").read_text()
    for garbage in ("", "[]", '"text"', "{}", '{"format": 1}', facts.replace('"format": 1', '"format": 9')):
        (folder / "model.json").write_text(garbage)
        with pytest.raises(CheckpointError, match=r"model.json cannot be read"):
            load_model(tmp_path)
    (folder / "model.json").write_text(facts)
    cut(folder / "model.safetensors", -1)
    with pytest.raises(CheckpointError, match="is damaged"):
        load_model(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="is damaged"):
        load_model(tmp_path)


def test_weights_sha256_is_of_all_trained_tensors_in_order() -> None:
    model = fresh_model(small_run(readout={"kind": "softmax"}), DATA)
    import hashlib

    parts = [t.detach().numpy().tobytes() for b in model.network.blocks for t in (b.weight, b.bias)]  # type: ignore[operator]
    assert model.head is not None
    parts += [model.head.weight.detach().numpy().tobytes(), model.head.bias.detach().numpy().tobytes()]
    assert weights_sha256(model) == hashlib.sha256(b"".join(parts)).hexdigest()


def test_blocks_of_ones_own_are_checked() -> None:
    shared = nn.Linear(25, 25)
    with pytest.raises(UsageError, match="blocks 1 and 2 share a parameter"):
        build_model(RUN, DATA, [shared, nn.Sequential(shared, nn.ReLU())])
    with pytest.raises(UsageError, match="leaves out 1 of 1"):
        build_model(RUN, DATA, [nn.Linear(25, 5)])
    with pytest.raises(UsageError, match="block 2 has no parameters to train"):
        build_model(RUN, DATA, [nn.Linear(25, 5), nn.ReLU()])
    with pytest.raises(UsageError, match="block 2 cannot take its input"):
        build_model(RUN, DATA, [nn.Linear(25, 5), nn.Linear(6, 5)])
