"""Nodes that each read data of their own: real files, real processes, and what passes between them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layerline import api
from layerline.cli.main import main
from layerline.data.digits import load_digits
from layerline.data.shards import Iid
from layerline.errors import DataError, LayerlineError, Stopped, UsageError
from layerline.events import Event, RowKept
from layerline.run import Run
from layerline.runtime.stop import Stop
from layerline.transport.rendezvous import serve_store
from runtime.members_by_hand import Ended, Member, members

NODES = 3
WORDS = ["train", "digits", "--order", "chapters", "--schedule", "federated", "--nodes", str(NODES)]
WORDS += ["--epochs", "3", "--widths", "16,16", "--threads", "1"]
SPY = """
import os, sys
def hook(event, arguments):
    if event == "open" and str(arguments[0]).endswith(".npz"):
        with os.fdopen(os.open(os.environ["SPY"], os.O_WRONLY | os.O_APPEND | os.O_CREAT), "w") as file:
            file.write(f"{os.environ.get('RANK', 'launcher')} {os.path.basename(arguments[0])}\\n")
sys.addaudithook(hook)
"""
"""Notes which process opens which file."""


@pytest.fixture
def clinics(tmp_path: Path) -> str:
    """Three files, of unlike sizes and classes; the third has no test part."""
    train, test = load_digits().train, load_digits().test
    assert test
    (tmp_path / "clinics").mkdir()
    for node, (size, labels) in enumerate([(150, range(4)), (90, range(2, 8)), (60, range(10))]):
        mine, held = np.isin(train.labels, labels), np.isin(test.labels, labels)
        arrays = {"x_train": train.inputs.numpy()[mine][:size], "y_train": train.labels.numpy()[mine][:size]}
        if node < 2:
            arrays |= {"x_test": test.inputs.numpy()[held][:40], "y_test": test.labels.numpy()[held][:40]}
        np.savez(tmp_path / f"clinics/{node + 1}.npz", **arrays)  # type: ignore[arg-type]
    return str(tmp_path / "clinics/{node}.npz")


def own(clinics: str, *more: str) -> list[str]:
    return [*WORDS, "--shards", "own", "--dataset", clinics, *more]


def described(clinics: str, **settings: Any) -> Run:
    base: dict[str, Any] = {
        "dataset": clinics,
        "shards": {"kind": "own"},
        "schedule": {"kind": "federated"},
        "nodes": NODES,
        "network": {"kind": "mlp", "widths": [16, 16]},
        "labels": {"position": "append"},
        "order": "chapters",
        "epochs": 3,
        "threads": 1,
        "device": "cpu",
    }
    return Run.from_dict(base | settings)


def result(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return values


SAME = (
    "weights_sha256",
    "test_accuracy",
    "readouts",
    "node_examples",
    "node_held_out",
    "node_accuracies",
    "bytes_sent",
)


def test_each_process_opens_its_own_and_all_end_with_the_same_bits(clinics: str, tmp_path: Path) -> None:
    (tmp_path / "spy").mkdir()
    (tmp_path / "spy/sitecustomize.py").write_text(SPY)
    path = os.pathsep.join([str(tmp_path / "spy"), *sys.path])
    opened = {}
    for processes in (2, 3):
        log, folder = tmp_path / f"opened-{processes}", tmp_path / f"run-{processes}"
        words = own(clinics, "--processes", str(processes), "--out-dir", str(folder), "--quiet")
        done = subprocess.run(
            [sys.executable, "-m", "layerline", *words],
            env=os.environ | {"PYTHONPATH": path, "SPY": str(log), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        opened[processes] = sorted(set(log.read_text().splitlines()))
    assert opened == {2: ["0 1.npz", "0 3.npz", "1 2.npz"], 3: ["0 1.npz", "1 2.npz", "2 3.npz"]}
    assert main(own(clinics, "--processes", "1", "--out-dir", str(tmp_path / "run-1"), "--quiet")) == 0
    values = [result(tmp_path / f"run-{processes}") for processes in (1, 2, 3)]
    assert len({json.dumps([each[name] for name in SAME]) for each in values}) == 1
    one = values[0]
    assert one["node_examples"] == [150, 90, 60]
    assert one["node_held_out"] == [40, 40, 0]
    assert one["node_accuracies"][2] is None
    assert one["test_accuracy"] == pytest.approx(np.mean(one["node_accuracies"][:2]))


def test_averaged(clinics: str, tmp_path: Path) -> None:
    start = Member(own(clinics, "--average", "--out-dir", "x", "--quiet"), tmp_path)
    for each in members(start, start, start):
        assert each.status == 0, each.err
    assert main(own(clinics, "--average", "--processes", "1", "--out-dir", str(tmp_path / "y"), "--quiet")) == 0
    together, alone = result(tmp_path / "x"), result(tmp_path / "y")
    assert [together[name] for name in SAME] == [alone[name] for name in SAME]


def test_files_that_are_shards_give_the_bits_of_shards(tmp_path: Path) -> None:
    """Not standardised: the mean of a whole is rounded unlike that of its parts."""
    data = load_digits()
    settings: dict[str, Any] = {"standardise": "none", "seed": 3}
    for node, part in enumerate(Iid().split(data.train.labels.numpy(), NODES, seed=3)):
        np.savez(tmp_path / f"{node + 1}.npz", x=data.train.inputs.numpy()[part], y=data.train.labels.numpy()[part])
    ours = api.train(described(str(tmp_path / "{node}.npz"), **settings))
    theirs = api.train(described("digits", **settings, shards={"kind": "iid"}))
    assert ours.values["weights_sha256"] == theirs.values["weights_sha256"]
    assert ours.test_accuracy is None
    assert ours.values["node_accuracies"] == [None] * NODES


def test_what_passes_between_nodes(clinics: str, tmp_path: Path) -> None:
    """All that was put into the store, and the kinds of all messages, of a run over three processes."""
    store = serve_store()
    start = Member(own(clinics, "--out-dir", "x", "--negatives", "adaptive", "--quiet"), tmp_path)
    for each in members(*[start] * NODES, port=store.port, served=True):
        assert each.status == 0, each.err
    board = {key.partition("board/0/")[2]: store.get(key) for key in store.list_keys() if "board/0/" in key}
    families = {key.split(" ")[0] for key in board}
    about_work = {"here", "folder", "ready", "done", "standing", "told", "home", "left"}
    assert families == about_work | {"accounts", "judged"}
    for rank in range(NODES):
        assert json.loads(board[f"accounts {rank}"]).keys() == {str(rank)}
        account = json.loads(board[f"accounts {rank}"])[str(rank)]
        assert account.keys() == {"images", "shape", "classes", "examples", "mean", "std"}
        assert len(account["mean"]) == len(account["std"]) == 1
        held, readouts = json.loads(board[f"judged {rank}"])[str(rank)]
        assert (held, readouts.keys()) == ((40, {"goodness"}) if rank < 2 else (0, set()))
        for fact in json.loads(board[f"told {rank} 0"]):
            assert {type(value) for row in fact["metrics"] for value in row.values()} <= {int, float, str, type(None)}
    carried = {t[3] for rank in range(NODES) for fact in json.loads(board[f"told {rank} 0"]) for t in fact["transfers"]}
    assert carried <= {"state", "weights", "final"}, "blocks, and neither labels nor outputs"
    assert "state" in carried
    digests = [json.loads(path.read_text())["digest"] for path in tmp_path.glob("x/slots/data-*.json")]
    assert len(digests) == NODES
    for content in board.values():  # whoever guesses a node's data could make sure with a digest
        assert not any(digest.encode() in content for digest in digests)


def same_error(ended: list[Ended], says: str) -> None:
    for each in ended:
        assert each.status == 1, each
        assert says in each.err
        assert "Traceback" not in each.err
        assert sum(line.startswith("error:") for line in each.err.splitlines()) == 1


def test_a_missing_file(clinics: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path(clinics.replace("{node}", "2")).unlink()
    start = Member(own(clinics, "--out-dir", "x"), tmp_path)
    same_error(members(start, start), "node 2: ")
    for processes in ("1", "3"):
        assert main(own(clinics, "--out-dir", str(tmp_path / "x"), "--processes", processes)) == 1
        assert "node 2: " in (said := capsys.readouterr().err)
        assert "clinics/2.npz: there is no such file" in said
    assert not (tmp_path / "x").exists()


def test_a_node_with_other_examples(clinics: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(clinics.replace("{node}", "3"), x=np.zeros((20, 64), np.float32), y=np.arange(20) % 10)
    says = "node 3 has float features of shape 64, where most have uint8 images of shape 1 x 8 x 8"
    start = Member(own(clinics, "--out-dir", "x"), tmp_path)
    same_error(members(start, start, start), says)
    assert not (tmp_path / "x").exists()
    assert main(own(clinics, "--out-dir", str(tmp_path / "y"), "--quiet")) == 1
    assert says in capsys.readouterr().err


def test_stopped_and_resumed_by_another_number_of_processes(clinics: str, tmp_path: Path) -> None:
    run, stop = described(clinics, epochs=6), Stop()

    def hear(event: Event) -> None:
        if isinstance(event, RowKept):
            stop.exit_status = 75

    with pytest.raises(Stopped):
        api.train(run, out_dir=tmp_path / "x", listener=hear, stop=stop)
    resumed = api.resume(tmp_path / "x", processes=2)
    assert resumed.values["processes"] == 2
    assert resumed.values["weights_sha256"] == api.train(run).values["weights_sha256"]
    assert api.resume(tmp_path / "x").values["node_accuracies"] == resumed.values["node_accuracies"]


@pytest.mark.parametrize("processes", [1, 3])
def test_a_node_must_find_the_data_it_began_with(processes: int, clinics: str, tmp_path: Path) -> None:
    """Also where it says the same of it: all pixels are there, each elsewhere."""
    api.train(described(clinics), out_dir=tmp_path / "x")
    path = clinics.replace("{node}", "2")
    arrays = dict(np.load(path))
    np.savez(path, **(arrays | {"x_train": arrays["x_train"][:, :, ::-1]}))
    with pytest.raises(LayerlineError, match="node 2 has other data than it began with"):
        api.resume(tmp_path / "x", processes=processes)


def test_evaluate_and_predict(clinics: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(own(clinics, "--out-dir", str(tmp_path / "x"), "--quiet", "--processes", "1")) == 0
    second = clinics.replace("{node}", "2")
    assert main(["evaluate", str(tmp_path / "x"), "--dataset", second, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["test_accuracy"] == result(tmp_path / "x")["node_accuracies"][1]
    assert main(["evaluate", str(tmp_path / "x"), "--dataset", "digits"]) == 0
    assert "359 test examples" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "x")]) == 2
    assert f"--dataset {clinics.replace('{node}', '1')}" in capsys.readouterr().err
    assert main(["predict", str(tmp_path / "x"), second]) == 0
    assert "--dataset SET" in (tmp_path / "x/model/README.md").read_text()


def test_validation_splits_every_node(clinics: str) -> None:
    values = api.train(described(clinics, validation=True)).values
    assert values["node_examples"] == [125, 75, 50]
    assert values["node_held_out"] == [25, 15, 10]
    assert values["test_accuracy"] is None
    found = zip(values["node_held_out"], values["node_accuracies"], strict=True)
    assert values["validation_accuracy"] == pytest.approx(sum(count * right for count, right in found) / 50)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--dataset", "digits"], "digits does not say where each node's own data lies"),
        (["--schedule", "all-layers"], "nodes of the all-layers schedule work on the same images"),
        (["--shards", "iid"], "say so: --shards own"),
        (["--nodes", "4"], "ring relay gives every node a chapter of its own"),
    ],
)
def test_requests_that_cannot_work(
    words: list[str], says: str, clinics: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*own(clinics), *words, "--out-dir", str(tmp_path / "x")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_from_python(clinics: str) -> None:
    with pytest.raises(DataError, match="node 1: "):
        api.train(described(clinics.replace("clinics", "nowhere")))
    with pytest.raises(UsageError, match="every node reads data of its own"):
        api.train(described(clinics), data=load_digits())


def test_judged_on_a_known_set_labels_are_those_of_the_model(tmp_path: Path) -> None:
    """Classes stand in the order in which nodes first named them; a set of another order was judged at random."""
    train = load_digits().train
    images, labels = train.inputs.numpy(), train.labels.numpy()
    for node, seen in enumerate(([5, 6, 7, 8, 9], [9, 0, 1, 2, 3, 4]), start=1):
        mine = np.isin(labels, seen)
        numbers = np.array([seen.index(label) for label in labels[mine]])
        names = np.array([str(label) for label in seen])
        np.savez(tmp_path / f"{node}.npz", x=images[mine], y=numbers, classes=names)
    longer = {"nodes": 2, "epochs": 20, "batch_size": 32, "network": {"kind": "mlp", "widths": [100, 100]}}
    averaged = {"schedule": {"kind": "federated", "average": True}}
    run = described(str(tmp_path / "{node}.npz"), **longer, **averaged)
    api.train(run, out_dir=tmp_path / "run")
    assert "".join(api.load(tmp_path / "run").classes) == "5678901234"
    assert api.evaluate(tmp_path / "run", dataset="digits")["test_accuracy"] > 0.5


def test_own_data_exchanged_per_batch_over_processes(clinics: str, tmp_path: Path) -> None:
    """The launcher, which reads no data, once took a plan without images for a wrong one."""
    words = own(clinics, "--average", "--exchange", "batch", "--processes", "2", "--quiet")
    assert main([*words, "--out-dir", str(tmp_path / "two")]) == 0
    run = Run.from_toml(tmp_path / "two" / "config.toml")
    api.train(run, out_dir=tmp_path / "one")
    assert result(tmp_path / "one")["weights_sha256"] == result(tmp_path / "two")["weights_sha256"]
