"""A stream in one process: it learns, it stops and goes on with the same bits, and says what is wrong with a wish."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from layerline import api
from layerline.blocks.cut import CutAt
from layerline.blocks.heads.ahead import MomentumHead
from layerline.blocks.heads.text import SharedUnembedding
from layerline.blocks.layer import Unembedding
from layerline.data.dataset import Dataset, Examples
from layerline.data.text import read_text
from layerline.data.text_set import TextSet, Windows
from layerline.errors import DataError, Stopped, UsageError
from layerline.events import EpochDone, Event, Minibatch
from layerline.reporting.run_folder import RunFolder
from layerline.runs import AnyRun
from layerline.runtime.stop import Stop
from layerline.runtime.stream.model import StreamModel, build_stream_model
from layerline.runtime.stream.node import StreamNode
from layerline.runtime.stream.timed_cut import settled_cut
from layerline.runtime.stream.trainer import StreamTrainer
from layerline.stream_run import StreamRun

TEXT = "the quick brown fox jumps over the lazy dog. " * 40


def pictures() -> Dataset:
    """Three classes, told apart by where the picture is bright."""
    draw = torch.Generator().manual_seed(2)
    labels = torch.arange(96) % 3
    inputs = torch.randint(0, 60, (96, 1, 8, 8), generator=draw)
    for label in range(3):
        inputs[labels == label, :, 2 * label : 2 * label + 3] += 150
    examples = Examples(inputs.to(torch.uint8), labels)
    return Dataset("bright", examples, examples[:30], ("a", "b", "c"))


def run_of(**settings: Any) -> StreamRun:
    small = {
        "network": {"kind": "conv", "widths": (8, 8, 8), "classifier": "linear"},
        "head": {"kind": "linear"},
        "batch_size": 16,
        "epochs": 3,
        "precision": "32-true",
        "threads": 1,
        "device": "cpu",
        "augment": {"shift": 1, "flip": True},
    }
    return StreamRun.from_dict(small | settings)


def text_run(folder: Path, **settings: Any) -> StreamRun:
    path = folder / "fox.txt"
    path.write_text(TEXT, encoding="utf-8")
    language = {
        "dataset": str(path),
        "network": {
            "kind": "transformer",
            "depth": 2,
            "width": 16,
            "attention_heads": 2,
            "context": 16,
            "dropout": 0.1,
        },
        "head": {"kind": "unembedding"},
        "optimizer": {"kind": "adamw", "lr": 0.02},
        "augment": {},
    }
    return run_of(**(language | settings))


def stopping_after(count: int, stop: Stop) -> Any:
    """A listener that asks to stop after so many minibatches."""
    seen = [0]

    def hear(event: Event) -> None:
        seen[0] += isinstance(event, Minibatch | EpochDone)
        if seen[0] == count:
            stop.exit_status = 75

    return hear


@pytest.mark.parametrize("reach", [1, 2, "all"])
def test_it_learns(reach: int | str) -> None:
    result = api.train(run_of(reach=reach, epochs=6, optimizer={"kind": "sgd", "lr": 0.05}), data=pictures())
    assert result.values["readouts"]["last"] > 0.8
    assert result.values["readout"] == "last"
    losses = {row.block for row in result.rows}
    assert losses == {1: {"1", "2", "3"}, 2: {"2", "3"}, "all": {"3"}}[reach]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"reach": 2, "microbatches": 3},
        {"reach": "all", "optimizer": {"kind": "adamw"}, "smoothing": 0.1, "precision": "bf16-mixed"},
        {"max_steps": 10},
        {"head": {"kind": "mlp"}, "cut": {"kind": "count", "blocks": 2}},
    ],
)
@pytest.mark.parametrize("after", [1, 6, 8])
def test_stopped_anywhere_and_gone_on_with(tmp_path: Path, settings: dict[str, Any], after: int) -> None:
    run, data = run_of(checkpoint_seconds=0, **settings), pictures()
    expected = api.train(run, data=data)
    stop = Stop()
    with pytest.raises(Stopped):
        api.train(run, data=data, out_dir=tmp_path / "run", listener=stopping_after(after, stop), stop=stop)
    result = api.resume(tmp_path / "run", data=data)
    assert result.values["weights_sha256"] == expected.values["weights_sha256"]
    assert result.rows == expected.rows
    again = api.load(tmp_path / "run")
    assert isinstance(again, StreamModel)
    assert torch.equal(again.scores(data.train.inputs), expected.model.scores(data.train.inputs))


def test_all_heads_together_weigh_each_twice_as_much_as_the_one_before() -> None:
    result, data = api.train(run_of(epochs=1), data=pictures()), pictures()
    assert list(result.values["readouts"]) == ["last", "all-heads", "block-2", "block-1"]
    model = result.model
    assert isinstance(model, StreamModel)
    scores = {readout.kind: model.scores(data.train.inputs, readout) for readout in model.available_readouts()}
    logs = {kind: torch.log_softmax(score, 1) for kind, score in scores.items()}
    torch.testing.assert_close(scores["all-heads"], (logs["block-1"] + 2 * logs["block-2"] + 4 * logs["last"]) / 7)


def test_one_pass_through_the_blocks_judges_by_every_readout(tmp_path: Path) -> None:
    """Each readout went through all blocks below it again; with codes a network of five blocks took minutes."""
    for codes in ({}, {"boundary": {"kind": "vq", "dims": 2, "codes": 8}}):
        result, data = api.train(run_of(epochs=1, **codes), data=pictures()), pictures()
        model = result.model
        assert isinstance(model, StreamModel)
        assert data.test is not None
        one_by_one = {readout.kind: model.accuracy(data.test, readout) for readout in model.available_readouts()}
        assert result.values["readouts"] == one_by_one
        passes: list[int] = []
        handle = model.blocks[0].register_forward_hook(lambda block, x, h, to=passes: to.append(len(h)))
        assert model.accuracies(data.test) == one_by_one
        assert sum(passes) == len(data.test)
        handle.remove()
    run = text_run(tmp_path, epochs=1)
    assert_bits(run, TextSet(read_text(Path(run.dataset), "fox"), 16, run.dataset).test, characters=176)
    text, run = tmp_path / "être.txt", run.replace(tokens="bytes", dataset=str(tmp_path / "être.txt"))
    text.write_text("être ou ne pas être, voilà la question. " * 50, encoding="utf-8")
    assert_bits(run, TextSet(read_text(text, "être", tokens="bytes"), 16, run.dataset).test, characters=193)


def assert_bits(run: StreamRun, windows: Windows, characters: int) -> None:
    """Of all readouts, for each of so many characters."""
    language = api.train(run)
    assert isinstance(language.model, StreamModel)
    bits = language.values["bits_per_character"]
    tokens = windows.labels.numel()
    assert windows.characters == characters
    expected = {kind: by_hand(language.model, windows, kind) * tokens / characters for kind in bits}
    assert bits == pytest.approx(expected)


def by_hand(model: StreamModel, windows: Windows, kind: str) -> float:
    """Bits per token by a readout, from the scores of all windows at once."""
    readout = next(each for each in model.available_readouts() if each.kind == kind)
    logs = torch.log_softmax(model.scores(windows.inputs, readout).double(), -1)
    return float(-logs.gather(-1, windows.labels[..., None]).mean() / math.log(2))


def test_all_heads_of_a_deep_network() -> None:
    """The weight of the last of 66 would be 2**65, which is no number for PyTorch."""
    run = run_of(epochs=1, max_steps=1, network={"kind": "conv", "widths": [3] * 66, "classifier": "linear"})
    assert 0 <= api.train(run, data=pictures()).values["readouts"]["all-heads"] <= 1


def test_a_network_with_one_loss_has_one_readout() -> None:
    assert list(api.train(run_of(epochs=1, reach="all"), data=pictures()).values["readouts"]) == ["last"]


def test_a_text_is_learned_and_judged_in_bits(tmp_path: Path) -> None:
    run = text_run(tmp_path, epochs=8, eval_every=4)
    result = api.train(run, out_dir=tmp_path / "run")
    values = json.loads((tmp_path / "run" / "result.json").read_text())
    assert values["validation_bits_per_character"] == values["bits_per_character"]["last"] < 3.5
    assert values["test_accuracy"] is None
    assert values["validation_accuracy"] == values["readouts"]["last"]
    assert [point["epoch"] for point in values["curve"]] == [4, 8]
    assert api.evaluate(tmp_path / "run")["bits_per_character"] == result.values["bits_per_character"]
    with pytest.raises(DataError, match="the tokens run from 0 to 999"):
        result.model.predict(torch.tensor([[0, 999]]))
    with pytest.raises(DataError, match=r"tokens have the shape \[B, T\], a row a text, not \[8\]"):
        result.model.predict(torch.zeros(8, dtype=torch.int64))


def test_another_text_is_read_with_the_vocabulary_of_the_model(tmp_path: Path) -> None:
    """It was read with its own: refused for having fewer characters, and judged wrongly where it had as many others."""
    api.train(text_run(tmp_path, epochs=1), out_dir=tmp_path / "run")
    some, other = tmp_path / "some.txt", tmp_path / "other.txt"
    some.write_text("a dog jumps. " * 40, encoding="utf-8")
    other.write_text(TEXT.replace("q", "Q"), encoding="utf-8")
    assert api.evaluate(tmp_path / "run", dataset=str(some))["bits_per_character"]["last"] > 0
    with pytest.raises(UsageError, match=r"the character 'Q' \(U\+0051\) is not in the vocabulary"):
        api.evaluate(tmp_path / "run", dataset=str(other))


def test_a_language_model_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    """Dropout draws, and the places where windows begin, are made again."""
    run = text_run(tmp_path, reach=2, checkpoint_seconds=0)
    expected, stop = api.train(run), Stop()
    with pytest.raises(Stopped):
        api.train(run, out_dir=tmp_path / "run", listener=stopping_after(7, stop), stop=stop)
    assert api.resume(tmp_path / "run").values["weights_sha256"] == expected.values["weights_sha256"]


def test_max_steps_cuts_short() -> None:
    counted: list[Event] = []
    result = api.train(run_of(max_steps=8), data=pictures(), listener=counted.append)
    assert sum(isinstance(event, Minibatch | EpochDone) for event in counted) == 8
    assert {row.epoch for row in result.rows} == {1, 2}


def test_reach_of_the_whole_network_needs_no_heads() -> None:
    whole = api.train(run_of(reach=3, max_steps=2), data=pictures()).values
    named = api.train(run_of(reach="all", max_steps=2), data=pictures()).values
    assert whole["weights_sha256"] == named["weights_sha256"]
    assert list(named["readouts"]) == ["last"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"reach": 9}, "cannot reach over 9 of 3 blocks"),
        ({"reach": 0}, "reaches at least its own block"),
        ({"microbatches": 17}, "do not make 17 microbatches"),
        ({"cut": {"kind": "count", "blocks": 9}}, "9"),
        ({"batch_size": 95}, "would be one example"),
        ({"batch_size": 6, "microbatches": 6}, "a microbatch would be one example"),
        ({"head": {"kind": "unembedding"}}, "does not fit"),
        ({"network": {"kind": "transformer"}}, "wants tokens"),
    ],
)
def test_what_cannot_be(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        api.train(run_of(**settings), data=pictures())


def test_blocks_of_equal_time_are_measured_once_and_noted(tmp_path: Path) -> None:
    """The run that lies in the folder says where blocks begin, so it trains the same blocks again."""
    by_time = run_of(cut={"kind": "count", "blocks": 2, "balance": "time"})
    values = api.train(by_time, data=pictures(), out_dir=tmp_path / "x").values
    noted = RunFolder.open(tmp_path / "x").run()
    assert isinstance(noted, StreamRun)
    assert isinstance(noted.cut, CutAt)
    assert len(noted.cut.positions) == 1
    assert api.train(noted, data=pictures()).values["weights_sha256"] == values["weights_sha256"]


def test_processes_do_not_measure_each_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "x"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="times differ from one process to the next"):
        settled_cut(run_of(cut={"kind": "count", "blocks": 2, "balance": "time"}), (1, 8, 8), 10)


def test_a_text_is_for_language_models(tmp_path: Path) -> None:
    run: AnyRun = text_run(tmp_path).replace(network={"kind": "conv"})
    with pytest.raises(UsageError, match="text"):
        api.train(run)


def test_heads_of_later_layers_follow_them(tmp_path: Path) -> None:
    """MAN averages the next block's first layer over time; a shared unembedding is the network's own, as it is now."""
    averaged = api.train(run_of(head={"kind": "man", "momentum": 0.5}, epochs=1), data=pictures()).model
    assert isinstance(averaged, StreamModel)
    head, following = averaged.head(0), averaged.blocks[1].get_submodule("0")
    assert isinstance(head, MomentumHead)
    weights, theirs = next(head.layer.parameters()), next(following.parameters())
    assert 0 < (weights - theirs).norm() < 0.5 * theirs.norm()
    shared = api.train(text_run(tmp_path, head={"kind": "shared-unembedding"}, max_steps=3)).model
    assert isinstance(shared, StreamModel)
    head, last = shared.head(0), list(shared.blocks[-1].children())[-1]
    assert isinstance(head, SharedUnembedding)
    assert isinstance(last, Unembedding)
    assert torch.equal(head.shared, last.linear.weight)


def test_the_blocks_of_a_language_model_run_freely(tmp_path: Path) -> None:
    """At equal speeds to the same bits as in step, whatever crosses; with codes of windows [B, T, D], too."""
    codes = {"boundary": {"kind": "vq", "dims": 4, "codes": 16}}
    in_step, free = (
        api.train(text_run(tmp_path, epochs=1, timing={"kind": kind}, **codes)).values for kind in ("sync", "async")
    )
    assert free["weights_sha256"] == in_step["weights_sha256"]
    assert free["boundaries"] == in_step["boundaries"]
    assert all(0 < entry["error"] < 1 for entry in free["boundaries"])


@pytest.mark.parametrize("over", ["the trainer", "a node"])
def test_a_shared_unembedding_is_shared_again_after_loading(over: str, tmp_path: Path) -> None:
    """Where the memory is not the same (after a move to a GPU), a resumed run began with fresh weights in the head."""
    run = text_run(tmp_path, head={"kind": "shared-unembedding"}, max_steps=4)
    data = TextSet(read_text(Path(run.dataset), "fox"), 16, run.dataset)
    trained, fresh = (StreamTrainer(build_stream_model(run, data), data) for _ in range(2))
    for _ in trained.train():
        pass
    head = fresh.model.head(0)
    assert isinstance(head, SharedUnembedding)
    head.shared = head.shared.clone()
    if over == "the trainer":
        fresh.load(trained.tensors(), trained.cursor)
    else:
        theirs, mine = (StreamNode(range(len(each.stages)), each.model, each.feed) for each in (trained, fresh))
        mine.load(theirs.tensors())
    expected = trained.model.head(0)
    assert isinstance(expected, SharedUnembedding)
    assert torch.equal(head.shared, expected.shared)
