"""FedAvg beside a federated run: what is trained, when, where it lies, and that the run itself never notices."""

from __future__ import annotations

import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from layerline import api
from layerline.errors import LayerlineError, Stopped, UsageError
from layerline.events import Event, Noted
from layerline.reporting.closing import closing
from layerline.reporting.run_folder import RunFolder
from layerline.run import Run
from layerline.runtime.stop import on_signals
from layerline.team import check_engine

RING = Run.from_dict(
    {
        "dataset": "digits",
        "network": {"kind": "mlp", "widths": [24, 24]},
        "order": "chapters",
        "schedule": {"kind": "federated"},
        "nodes": 3,
        "epochs": 12,
        "chapters": 6,
        "batch_size": 64,
        "precision": "32-true",
        "threads": 1,
        "device": "cpu",
        "beside": "fedavg",
    }
)


def result_of(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return values


def test_a_ring_and_its_table(tmp_path: Path) -> None:
    alone = api.train(RING.replace(beside="none"))
    result = api.train(RING, out_dir=tmp_path / "run")
    assert result.values["weights_sha256"] == alone.values["weights_sha256"], "the run is what it would be by itself"
    assert result_of(tmp_path / "run") == result.values
    run, epochs, equally_sent = result.values["beside"]
    assert [line["name"] for line in (run, epochs, equally_sent)] == ["run", "equal-epochs", "equal-bytes"]
    assert (run["accuracy"], run["epochs"], run["passes"]) == (result.test_accuracy, 12, 4)
    assert (epochs["passes"], epochs["chapters"]) == (4, 4)
    # A block went to the next 5 times, so 5/3 up and down each; of two rounds one mean is handed on, 1 up and 2 down.
    assert (equally_sent["passes"], equally_sent["chapters"]) == (4, 2)
    sent = [line["bytes_up"] + line["bytes_down"] for line in (run, equally_sent)]
    assert sent[0] == pytest.approx(sent[1] * 10 / 9, rel=0.2), "FedAvg has a head, too"
    assert epochs["bytes_down"] == 2 * epochs["bytes_up"], "a block goes up once, for two"

    folder = RunFolder.open(tmp_path / "run" / "beside" / "equal-epochs")
    beside = folder.run()
    assert isinstance(beside, Run)
    same = ("dataset", "seed", "shards", "network", "batch_size", "optimizer", "nodes", "threads", "codec")
    assert all(getattr(beside, name) == getattr(RING, name) for name in same)
    assert (beside.objective.kind, beside.readout.kind, beside.beside) == ("backprop", "last-head", "none")
    assert result_of(folder.path)["test_accuracy"] == epochs["accuracy"]
    assert api.evaluate(folder.path)["test_accuracy"] == epochs["accuracy"]
    said = io.StringIO()
    closing(result.values, console=Console(file=said, width=100))
    for line in (run, epochs, equally_sent):
        assert f"{100 * line['accuracy']:.2f} %" in said.getvalue()
    card = (tmp_path / "run/model/README.md").read_text()
    for name, line in (("this run", run), ("FedAvg, equal epochs", epochs), ("FedAvg, equal bytes", equally_sent)):
        assert f"| {name} | {100 * line['accuracy']:.2f} % | {line['passes']} |" in card


def test_an_average_whose_bytes_are_those_of_fedavg(tmp_path: Path) -> None:
    """Here equal bytes are equal epochs: one is trained, and one line says so."""
    average = RING.replace(schedule={"kind": "federated", "average": True}, epochs=2, chapters=2)
    result = api.train(average, out_dir=tmp_path / "run")
    run, epochs, equally_sent = result.values["beside"]
    assert equally_sent == epochs | {"name": "equal-bytes"}
    assert run["bytes_down"] == 2 * run["bytes_up"]
    assert [path.name for path in (tmp_path / "run" / "beside").iterdir()] == ["equal-epochs"]
    said = io.StringIO()
    closing(result.values, console=Console(file=said, width=100))
    assert "FedAvg, equal epochs and bytes" in said.getvalue()


def test_without_a_folder_the_table_is_in_the_values_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [line["name"] for line in api.train(RING.replace(epochs=3, chapters=3)).values["beside"]]
    assert names == ["run", "equal-epochs", "equal-bytes"]
    assert not list(tmp_path.iterdir())


def test_stopped_between_the_run_and_its_table_and_gone_on_with(tmp_path: Path) -> None:
    folder, begun = tmp_path / "run", []

    def interrupt(event: Event) -> None:
        if isinstance(event, Noted) and "equal-bytes" in event.words:
            os.kill(os.getpid(), signal.SIGINT)

    def hear(event: Event) -> None:
        begun.append(event)

    with on_signals() as stop, pytest.raises(Stopped, match="the run itself is finished") as stopped:
        api.train(RING, out_dir=folder, listener=interrupt, stop=stop)
    assert stopped.value.exit_status == 130
    assert stopped.value.hint == f"its table is made by: layerline resume {folder}"
    before = result_of(folder)
    assert "beside" not in before
    kept = (folder / "beside" / "equal-epochs" / "result.json").read_bytes()

    values = api.resume(folder, listener=hear).values
    assert [event.words for event in begun if isinstance(event, Noted)] == [
        f"beside it: FedAvg of backprop, equal-bytes: {values['beside'][2]['passes']} passes in "
        f"{values['beside'][2]['chapters']} rounds"
    ]
    assert len(begun) == 1, "nothing is trained or said but this"
    assert (folder / "beside" / "equal-epochs" / "result.json").read_bytes() == kept
    assert {name: value for name, value in values.items() if name != "beside"} == before
    assert result_of(folder) == values
    again = api.resume(folder).values
    assert (again["beside"], again["weights_sha256"]) == (values["beside"], values["weights_sha256"])


def test_where_fedavg_fails_the_run_stays(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    RunFolder.create(RING, folder / "beside" / "equal-epochs")
    (folder / "beside").rename(tmp_path / "beside")
    folder.rmdir()

    def put_in_its_way(event: Event) -> None:
        if (tmp_path / "beside").exists() and folder.exists():
            (tmp_path / "beside").rename(folder / "beside")

    small = RING.replace(epochs=3, chapters=3)
    with pytest.raises(LayerlineError, match=r"the run itself is finished, but .* failed: .* of another run") as failed:
        api.train(small, out_dir=folder, listener=put_in_its_way)
    assert failed.value.hint == f"its table is made by: layerline resume {folder}"
    assert result_of(folder)["weights_sha256"]
    assert "beside" not in result_of(folder)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"schedule": {"kind": "all-layers"}}, "only federated runs"),
        ({"objective": {"kind": "backprop"}, "readout": {"kind": "last-head"}}, "would say nothing"),
        ({"schedule": {"kind": "federated", "average": True}, "exchange": "batch"}, "no rounds"),
        ({"shards": {"kind": "own"}, "dataset": "clinics/{node}.npz"}, "to themselves"),
        ({"privacy": {"kind": "clipped"}, "send_optimizer_state": False}, "clipping and noise"),
        ({"network": {"kind": "own"}}, "trained in place"),
    ],
)
def test_what_fedavg_could_not_be_beside(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why) as refused:
        RING.replace(**changes)
    assert "--beside none" in str(refused.value)
    RING.replace(beside="none", **changes)


def test_processes_of_torchrun_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "1", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="torchrun is not"):
        check_engine(RING, "torch")
    check_engine(RING.replace(beside="none"), "torch")
