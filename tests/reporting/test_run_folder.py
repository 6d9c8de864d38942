from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from safetensors import SafetensorError
from torch import nn

from layerline.api import load, resume, train
from layerline.errors import CheckpointError, LayerlineError, Stopped, UsageError
from layerline.events import EpochDone, Event, Minibatch, Row, Started
from layerline.reporting.run_folder import RunFolder, default_out_dir
from layerline.runtime.stop import Stop
from layerline.stream_run import StreamRun
from reporting.tiny import tiny_data, tiny_run

ROW = Row(epoch=1, block="1", loss=0.5, accuracy=0.75, goodness_positive=1.25, goodness_negative=0.25)
HEAD = Row(epoch=1, block="head", loss=0.1, accuracy=1.0)


def read_metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# Making a folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_new_run_goes_below_the_current_folder_under_its_preset_and_time(here: Path) -> None:
    folder = RunFolder.create(tiny_run())
    assert re.fullmatch(r"runs/tiny/\d{8}-\d{6}", folder.path.as_posix())
    assert (here / folder.path / "config.toml").is_file()
    assert json.loads((folder.path / "env.json").read_text())["threads"] == 1
    assert folder.run() == tiny_run()
    assert folder.result() is None


def test_runs_started_in_the_same_second_get_folders_of_their_own(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.strftime", lambda form: "20260101-120000")
    names = [default_out_dir("tiny").name for _ in range(3)]
    assert names == ["20260101-120000", "20260101-120000-2", "20260101-120000-3"]


def test_a_folder_that_was_set_aside_is_taken(here: Path) -> None:
    out_dir = default_out_dir("tiny")
    assert RunFolder.create(tiny_run(), out_dir).path == out_dir


@pytest.mark.parametrize("preset", ["../../etc", "/tmp/x", "a/b", "..", ""])
def test_a_preset_from_a_file_cannot_lead_out_of_runs(here: Path, preset: str) -> None:
    path = default_out_dir(preset).resolve()
    assert path.parent.parent == here / "runs"


@pytest.mark.parametrize("there", ["nothing", "an empty folder"])
def test_a_chosen_folder_is_used_as_it_is(tmp_path: Path, there: str) -> None:
    out_dir = tmp_path / "deep" / "mine"
    if there == "an empty folder":
        out_dir.mkdir(parents=True)
    assert RunFolder.create(tiny_run(), out_dir).path == out_dir


def test_a_run_is_never_overwritten(tmp_path: Path) -> None:
    RunFolder.create(tiny_run(), tmp_path / "mine")
    before = (tmp_path / "mine" / "config.toml").read_bytes()
    with pytest.raises(UsageError, match=r"never overwritten(.|\n)*layerline resume"):
        RunFolder.create(tiny_run(seed=5), tmp_path / "mine")
    assert (tmp_path / "mine" / "config.toml").read_bytes() == before


def test_a_folder_of_other_things_is_left_alone_and_not_called_a_run(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(UsageError, match="not empty") as caught:
        RunFolder.create(tiny_run(), tmp_path)
    assert "resume" not in str(caught.value)


def test_two_runs_that_find_the_same_folder_empty_do_not_share_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunFolder, "_refuse_if_used", lambda self: None)  # both looked before either wrote
    RunFolder.create(tiny_run(), tmp_path / "mine")
    with pytest.raises(UsageError, match="never overwritten"):
        RunFolder.create(tiny_run(), tmp_path / "mine")


def test_a_file_is_no_place_for_a_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        RunFolder.create(tiny_run(), tmp_path / "file")
    with pytest.raises(LayerlineError, match=r"cannot write .*\n.*--out-dir"):
        RunFolder.create(tiny_run(), tmp_path / "file" / "below")


def test_a_system_folder_is_no_place_for_a_run() -> None:
    with pytest.raises(LayerlineError, match=r"cannot write .*\n.*--out-dir"):
        RunFolder.create(tiny_run(), Path("/proc/layerline"))


# Opening one


def test_what_is_no_run_folder_is_refused_with_the_way_to_one(here: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no folder nowhere\n.*layerline train digits"):
        RunFolder.open(Path("nowhere"))
    latest = RunFolder.create(tiny_run()).path
    with pytest.raises(UsageError, match=rf"no config.toml\n.*{latest}"):
        RunFolder.open(here)


def test_the_model_inside_a_run_is_not_the_run(tmp_path: Path) -> None:
    train(tiny_run(), data=tiny_data(), out_dir=tmp_path / "run")
    assert RunFolder.open(tmp_path / "run").run().preset == "tiny"
    with pytest.raises(UsageError, match="is the model of a run"):
        RunFolder.open(tmp_path / "run" / "model")


def test_a_damaged_result_is_said_to_be_damaged(tmp_path: Path) -> None:
    folder = RunFolder.create(tiny_run(), tmp_path / "run")
    (folder.path / "result.json").write_text('{"test_accuracy": 0.9')
    with pytest.raises(CheckpointError, match=r"result\.json cannot be read"):
        folder.result()


# metrics.csv while training


def test_every_event_is_passed_on_and_rows_are_on_disk_at_once(tmp_path: Path) -> None:
    folder, heard = RunFolder.create(tiny_run(), tmp_path / "run"), list[Event]()
    events: list[Event] = [Started("tiny", "run", 0, 4, 2, []), Minibatch(1, "block 1"), EpochDone(1, [ROW, HEAD])]
    with folder.listening(heard.append) as listener:
        for event in events:
            listener(event)
        on_disk = read_metrics(folder.path)
    assert heard == events
    assert list(on_disk[0]) == ["epoch", "block", "loss", "goodness_positive", "goodness_negative", "accuracy"]
    assert list(on_disk[0].values()) == ["1", "1", "0.5", "1.25", "0.25", "0.75"]
    assert list(on_disk[1].values()) == ["1", "head", "0.1", "", "", "1.0"]


def test_a_run_that_goes_on_keeps_the_rows_of_its_checkpoint_and_no_others(tmp_path: Path) -> None:
    """Killed after epoch 2 was written, half a line of epoch 3 behind it, with a checkpoint after epoch 1."""
    folder = RunFolder.create(tiny_run(), tmp_path / "run")
    (folder.path / "metrics.csv").write_text("epoch,block\n1,1\n2,1\n3,")
    with folder.listening(lambda event: None) as listener:
        listener(Started("tiny", "run", 2, 4, 2, [ROW]))
        listener(EpochDone(2, [Row(2, "1", 0.25, 1.0)]))
    assert [row["epoch"] for row in read_metrics(folder.path)] == ["1", "2"]


def test_a_full_disk_ends_the_run_with_an_error_that_says_so() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    from layerline.reporting.metrics import Metrics

    metrics = Metrics(full)
    metrics._file = full.open("ab", buffering=0)
    with pytest.raises(LayerlineError, match=r"No space left(.|\n)*layerline resume"):
        metrics.add([ROW])
    metrics.close()


# A whole run


def test_a_finished_run_leaves_metrics_result_and_model_card(tmp_path: Path) -> None:
    result = train(tiny_run(readout={"kind": "softmax"}), data=tiny_data(), out_dir=tmp_path / "run")
    folder = RunFolder.open(tmp_path / "run")
    assert folder.result() == json.loads(json.dumps(result.values))
    rows = read_metrics(folder.path)
    assert [(row["epoch"], row["block"]) for row in rows] == [(e, b) for e in "12" for b in ("1", "2", "head")]
    assert [float(row["loss"]) for row in rows] == [row.loss for row in result.rows]
    card = (folder.model / "README.md").read_text()
    assert "| softmax (chosen) | " in card
    assert f"| goodness | {100 * result.values['readouts']['goodness']:.2f} % |" in card
    assert f'layerline.load("{(tmp_path / "run").as_posix()}")' in card
    assert "| network.widths | [8, 8] |" in card
    assert result.values["weights_sha256"] in card
    assert not [path for path in folder.path.rglob("*") if path.suffix == ".part"]


def test_a_resumed_run_has_the_metrics_of_an_undisturbed_one(tmp_path: Path) -> None:
    run, data = tiny_run(order="chapters", checkpoint_seconds=0), tiny_data()
    train(run, data=data, out_dir=tmp_path / "whole")
    stop, count = Stop(), 0

    def interrupt(event: Event) -> None:
        nonlocal count
        count += isinstance(event, Minibatch)
        stop.exit_status = 130 if count == 5 else None

    with pytest.raises(Stopped):
        train(run, data=data, out_dir=tmp_path / "parts", listener=interrupt, stop=stop)
    assert len(read_metrics(tmp_path / "parts")) < 4
    resume(tmp_path / "parts", data=data)
    assert (tmp_path / "parts/metrics.csv").read_bytes() == (tmp_path / "whole/metrics.csv").read_bytes()


def test_the_card_of_a_validation_run_says_that_the_test_set_was_not_read(tmp_path: Path) -> None:
    train(tiny_run(validation=True), data=tiny_data(), out_dir=tmp_path / "run")
    assert "validation split; the test set was not read" in (tmp_path / "run/model/README.md").read_text()


def test_the_card_of_a_language_model_speaks_of_a_text(tmp_path: Path) -> None:
    """It was a classifier of 28 classes, one of them a line break, whose test set was not read."""
    text = tmp_path / "fox.txt"
    text.write_text("the quick brown fox\njumps over the lazy dog. " * 40, encoding="utf-8")
    network = {"kind": "transformer", "depth": 2, "width": 16, "attention_heads": 2, "context": 16}
    run = StreamRun.from_dict({"dataset": str(text), "network": network, "head": {"kind": "unembedding"}, "epochs": 1})
    result = train(run, out_dir=tmp_path / "run")
    card = (tmp_path / "run/model/README.md").read_text()
    assert card.startswith("# Language model of ")
    assert "It reads up to 16 characters and scores the 29 that may follow." in card
    assert f"| last (chosen) | {result.values['validation_bits_per_character']:.4f} | " in card
    for strange in ("lassif", "test set", "predict"):
        assert strange not in card


def test_the_card_of_a_stream_says_how_it_learned(tmp_path: Path) -> None:
    network = {"kind": "conv", "widths": [4, 4], "classifier": "linear"}
    freely = {"timing": {"kind": "async", "slowdowns": [1, 1.5]}, "boundary": {"kind": "vq", "dims": 2, "codes": 4}}
    run = StreamRun.from_dict({"dataset": "digits", "network": network, "max_steps": 3, "batch_size": 8} | freely)
    train(run, out_dir=tmp_path / "run")
    card = (tmp_path / "run/model/README.md").read_text()
    assert "Blocks ran freely, each with a replay buffer of 1, steps taking 1, 1.5 times as long." in card
    assert "cross to the next block as indices of 4 codes for every 2 channels" in card


def test_the_card_of_modules_of_ones_own_does_not_describe_the_networks_settings(tmp_path: Path) -> None:
    blocks = [nn.Sequential(nn.Linear(9, 7), nn.ReLU()), nn.Sequential(nn.Linear(7, 7), nn.ReLU())]
    train(tiny_run(), data=tiny_data(), network=blocks, out_dir=tmp_path / "run")
    card = (tmp_path / "run/model/README.md").read_text()
    assert "network=blocks" in card
    assert "network.widths" not in card
    load(tmp_path / "run", network=blocks)


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    """Each would delete the other's checkpoint."""
    folder = RunFolder.create(tiny_run(), tmp_path / "run")
    with folder.alone():
        with pytest.raises(UsageError, match="another process is training"), RunFolder.open(folder.path).alone():
            pass
        with pytest.raises(UsageError, match="another process is training"):
            resume(folder.path, data=tiny_data())
        assert not (folder.path / "result.json").exists()
    with folder.alone():  # free again
        pass


def test_a_run_holds_its_folder_until_the_result_is_written(tmp_path: Path) -> None:
    """Two that resumed one finished run used to write its model at once."""
    folder = tmp_path / "run"
    refused: list[bool] = []

    def try_the_folder(*state: object) -> None:
        if (folder / "checkpoints" / "latest.json").exists():
            try:
                with RunFolder(folder).alone():
                    refused.append(False)
            except UsageError:
                refused.append(True)

    block = nn.Sequential(nn.Linear(9, 7), nn.ReLU())
    block.register_state_dict_post_hook(try_the_folder)  # the model's files are written from it
    blocks = [block, nn.Sequential(nn.Linear(7, 7), nn.ReLU())]
    train(tiny_run(), data=tiny_data(), network=blocks, out_dir=folder)
    before = len(refused)
    assert before
    resume(folder, data=tiny_data(), network=blocks)
    assert len(refused) > before
    assert all(refused)


def test_an_error_says_how_this_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk used to say `layerline resume RUN_DIR`, to be filled in by hand."""
    where = tmp_path / "my runs" / "tiny"

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr("layerline.runtime.checkpoint.save_file", full)
    with pytest.raises(LayerlineError, match="No space left") as refused:
        train(tiny_run(), data=tiny_data(), out_dir=where)
    assert refused.value.hint == f"the last checkpoint is whole: layerline resume '{where}'"
