"""Participants with data of their own: the server has none, and ends with what the torch engine ends with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.app import Message

from layerline import api
from layerline.data.digits import load_digits
from layerline.errors import LayerlineError
from layerline.federated_server import serve
from layerline.reporting.run_folder import RunFolder
from layerline.run import Run
from layerline.runtime.flower import app, own
from layerline.runtime.flower.federation import Asked, Lost, Refused, Reply
from layerline.runtime.flower.own import ask_accounts, to_text
from layerline.runtime.flower.participant import Order
from runtime.flower.overheard import Configuration, Overheard, bytes_of
from small_runs import small_run

pytestmark = pytest.mark.usefixtures("identity")


@pytest.fixture
def clinics(tmp_path: Path) -> str:
    """Two files of unlike sizes and classes; the second has no test part."""
    train, test = load_digits().train, load_digits().test
    assert test
    (tmp_path / "clinics").mkdir()
    for node, (size, labels) in enumerate([(150, range(4)), (90, range(2, 8))]):
        mine, held = np.isin(train.labels, labels), np.isin(test.labels, labels)
        arrays = {"x_train": train.inputs.numpy()[mine][:size], "y_train": train.labels.numpy()[mine][:size]}
        if node == 0:
            arrays |= {"x_test": test.inputs.numpy()[held][:40], "y_test": test.labels.numpy()[held][:40]}
        np.savez(tmp_path / f"clinics/{node + 1}.npz", **arrays)  # type: ignore[arg-type]
    return str(tmp_path / "clinics/{node}.npz")


def federated(clinics: str, **tables: Any) -> Run:
    base: dict[str, Any] = {
        "order": "chapters",
        "epochs": 3,
        "chapters": 3,
        "nodes": 2,
        "labels": {"position": "append"},
    }
    base |= {"dataset": clinics, "shards": {"kind": "own"}, "schedule": {"kind": "federated", "average": True}}
    return small_run(**(base | tables))


def on_flower(run: Run, folder: Path, *configurations: Configuration) -> tuple[dict[str, Any], Overheard]:
    """What a server in this process ends with. `configurations`: of the SuperNodes."""
    if not folder.exists():
        RunFolder.create(run, folder)
    link = Overheard(folder / "participants", *configurations)
    try:
        serve(link, {"run-dir": str(folder), "quiet": 1, "patience": 5})
    finally:
        for participant in app._participants.values():
            participant.close()
        app._participants.clear()  # the next one comes in a new process
    values: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return values, link


def holding(clinics: str) -> list[Configuration]:
    """SuperNodes that say where their data lies."""
    return [{"data": clinics.replace("{node}", str(node + 1))} for node in range(2)]


KINDS: dict[str, dict[str, Any]] = {
    "averaged by examples": {},
    "relay, channels, validation": {
        "schedule": {"kind": "federated"},
        "standardise": "channel",
        "validation": True,
    },
    "averaged, softmax, bf16": {"readout": {"kind": "softmax"}, "codec": {"kind": "bf16"}},
}
SAME = ("weights_sha256", "test_accuracy", "validation_accuracy", "readouts", "node_examples", "node_held_out")


@pytest.mark.parametrize("kind", KINDS)
def test_own_data_ends_with_the_bits_of_the_torch_engine(kind: str, clinics: str, tmp_path: Path) -> None:
    run = federated(clinics, **KINDS[kind])
    expected = api.train(run).values
    values, _ = on_flower(run, tmp_path / "run", *holding(clinics))
    assert [values[name] for name in SAME] == [expected[name] for name in SAME]
    assert values["node_accuracies"] == expected["node_accuracies"]
    assert values["engine"] == "flower"


def test_a_run_as_a_file(clinics: str, tmp_path: Path) -> None:
    """As the guide describes it; the server's machine has no such path."""
    (tmp_path / "run.toml").write_text(
        """
        dataset = "patients/{node}.npz"
        order = "chapters"
        nodes = 2
        epochs = 2
        threads = 1
        network.widths = [16, 16]
        shards.kind = "own"
        schedule = { kind = "federated", average = true }
        """
    )
    link = Overheard(tmp_path / "participants", *holding(clinics))
    serve(link, {"preset": str(tmp_path / "run.toml"), "out-dir": str(tmp_path / "run"), "quiet": 1, "patience": 5})
    app._participants.clear()
    values = json.loads((tmp_path / "run/result.json").read_text())
    assert values["node_examples"] == [150, 90]
    assert values["dataset"] == "patients/{node}.npz"


def test_counts_travel_and_nothing_else_of_the_data(clinics: str, tmp_path: Path) -> None:
    _, link = on_flower(federated(clinics, standardise="none"), tmp_path / "run", *holding(clinics))
    blobs = [blob for message in link.said for blob in bytes_of(message.content)]
    for configuration in holding(clinics):
        for name, array in np.load(str(configuration["data"])).items():
            parts = array[:50].reshape(-1, 64) if name.startswith("x") else array[None, :32]
            for kind in (
                parts.astype("uint8"),
                parts.astype("int64"),
                parts.astype("float32"),
                parts / np.float32(255),
            ):
                assert not any(each.tobytes() in blob for each in kind for blob in blobs)
    accounts = [json.loads(said["account"]) for said in map(told, link.said) if "account" in said]
    assert len(accounts) == 2
    assert all(set(each) == {"images", "shape", "classes", "examples", "mean", "std"} for each in accounts)
    assert sorted(each["examples"] for each in accounts) == [90, 150]


def told(message: Message) -> dict[str, Any]:
    return app.said_in(message.content)


def test_a_participant_that_does_not_say_where_its_data_lies(clinics: str, tmp_path: Path) -> None:
    """The server says no path: a participant would open whatever it names."""
    with pytest.raises(LayerlineError, match=r"node 2: .*does not say where") as refused:
        on_flower(federated(clinics), tmp_path / "run", holding(clinics)[0], {})
    assert "--node-config" in (refused.value.hint or "")
    assert refused.value.exit_status == 2


def test_a_path_that_all_share_is_the_participants_word_too(clinics: str, tmp_path: Path) -> None:
    """Without `own`, a server could name any file of a participant, which then trained on it."""
    path = clinics.replace("{node}", "1")
    run = federated(path, shards={"kind": "iid"})
    with pytest.raises(LayerlineError, match=r"node 1: the run learns from .*does not say where") as refused:
        on_flower(run, tmp_path / "refused")
    assert refused.value.exit_status == 2
    values, _ = on_flower(run, tmp_path / "run", {"data": path}, {"data": path})
    assert values["weights_sha256"] == api.train(run).values["weights_sha256"]


def test_other_data_than_the_run_was_begun_with_is_refused(clinics: str, tmp_path: Path) -> None:
    """A run that goes on does not ask again: the plan is made already."""
    run = federated(clinics)
    on_flower(run, tmp_path / "begun", *holding(clinics))
    RunFolder.create(run, tmp_path / "run")
    (tmp_path / "run/flower").mkdir()
    shutil.copy(tmp_path / "begun/flower/accounts.json", tmp_path / "run/flower/accounts.json")
    with pytest.raises(LayerlineError, match="not the data that the run was begun with"):
        on_flower(run, tmp_path / "run", *reversed(holding(clinics)))


def test_a_participant_that_fails_whatever_it_is_asked(
    clinics: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process ended each time, and the server waited for somebody else to come, without a word of why."""

    class Failing(Overheard):
        def pull(self, names: Iterable[str]) -> list[tuple[str, Reply | Lost | Refused]]:
            return [(name, Lost("MemoryError: ")) for name, _ in super().pull(names)]

    monkeypatch.setattr(own, "_LOOK_SECONDS", 0.0)
    with pytest.raises(LayerlineError, match="failed 3 times: MemoryError"):
        ask_accounts(Failing(tmp_path, *holding(clinics)), federated(clinics), 20)


def test_data_of_another_kind_names_the_node(clinics: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "wide.npz", x=np.zeros((9, 1, 5, 5), np.uint8), y=np.arange(9) % 3)
    with pytest.raises(LayerlineError, match="node 2 has uint8 images of shape 1 x 5 x 5"):
        on_flower(federated(clinics), tmp_path / "run", holding(clinics)[0], {"data": str(tmp_path / "wide.npz")})


PRIVATE: dict[str, Any] = {"privacy": {"kind": "local-dp", "epsilon": 0.5, "clipping": 0.1}}


def test_with_noise_nothing_exact_of_training_is_told(tmp_path: Path) -> None:
    """Loss and accuracy of every epoch are of the data as much as blocks are."""
    run = small_run(
        **PRIVATE,
        dataset="digits",
        order="chapters",
        epochs=3,
        nodes=2,
        schedule={"kind": "federated"},
        send_optimizer_state=False,
    )
    values, link = on_flower(run, tmp_path / "run")
    facts = [fact for message in link.said for fact in json.loads(told(message).get("facts", "[]"))]
    assert len(facts) >= 9
    assert not any(fact["metrics"] for fact in facts)
    assert values["participant_accuracies"] == [None, None]
    assert values["epsilons"] == [3.0, 1.5]  # chapters 1 and 3, and chapter 2, of three blocks each
    assert "(3, 6e-05)-private together" in (tmp_path / "run/flower/notes.txt").read_text()


NOISED = PRIVATE | {"send_optimizer_state": False}
TOO_OPEN = {"privacy": PRIVATE["privacy"] | {"epsilon": 0.1, "delta": 0.2}, "send_optimizer_state": False}
ONLY_PRESENCE = {"privacy": PRIVATE["privacy"] | {"sensitivity": 0.1}, "send_optimizer_state": False}


@pytest.mark.parametrize(
    ("tables", "limits", "why"),
    [
        (NOISED, {"max-epsilon": 4.0}, "9 blocks with epsilon 0.5 make 4.5 together"),
        ({}, {"max-epsilon": 4.0}, "the run's blocks have no noise"),
        (TOO_OPEN, {"max-epsilon": 4.0}, "9 blocks with delta 0.2 make 1.8 together"),
        (NOISED, {"max-epsilon": 9.0, "max-delta": 1e-6}, "make 9e-05 together"),
        (ONLY_PRESENCE, {"max-epsilon": 9.0}, "hides those up to 0.1 apart"),
        (NOISED, {"max-epsilon": "four"}, "max-epsilon is a number from 0, and is four"),
        (NOISED, {"max-epsilon": float("nan")}, "max-epsilon is a number from 0, and is nan"),
        (NOISED, {"max-delta": 0.1}, "max-epsilon is a number from 0, and is missing"),
    ],
)
def test_a_participant_may_insist(
    tables: dict[str, Any], limits: Configuration, why: str, clinics: str, tmp_path: Path
) -> None:
    """It refuses before it says what its data is like, and whatever else the server chooses."""
    careful: Configuration = {**holding(clinics)[1], **limits}
    link = Overheard(tmp_path, holding(clinics)[0], careful)
    with pytest.raises(LayerlineError, match=why) as refused:
        ask_accounts(link, federated(clinics, **tables), 5)
    assert refused.value.exit_status == 2
    assert "node 2" in refused.value.what
    assert sum("account" in told(message) for message in link.said) == 1  # that of node 1


def test_a_limit_that_is_misspelt_is_refused(clinics: str, tmp_path: Path) -> None:
    careful: Configuration = {**holding(clinics)[1], "max_epsilon": 4.0}
    link = Overheard(tmp_path, holding(clinics)[0], careful)
    with pytest.raises(LayerlineError, match="configured with max_epsilon, which means nothing; did you"):
        ask_accounts(link, federated(clinics, **NOISED), 5)


def test_what_a_participant_accepts_it_carries_out(clinics: str, tmp_path: Path) -> None:
    careful: list[Configuration] = [{**each, "max-epsilon": 4.5, "max-delta": 1e-3} for each in holding(clinics)]
    values, _ = on_flower(federated(clinics, **NOISED), tmp_path / "run", *careful)
    assert values["epsilons"] == [4.5, 4.5]


def test_a_participant_is_asked_as_itself_only(clinics: str, tmp_path: Path) -> None:
    """As every node of a plan it would send several times as many blocks as it agreed to; and a server that chooses
    what a run is called chooses no folder."""
    run = federated(clinics, **NOISED)
    link = Overheard(tmp_path / "home" / "participants", *holding(clinics))
    accounts = to_text(ask_accounts(link, run, 5))
    order = Order(0, (0, 0), 0, (), ())
    (reply,) = link.pull([link.order(0, Asked(run.to_toml(), "run", 1, accounts), order)])
    assert isinstance(reply[1], Refused)
    assert "node 2 is asked for where partition-id=0 is" in reply[1].what
    (reply,) = link.pull([link.order(0, Asked(run.to_toml(), "..", 0, accounts), order)])
    app._participants.clear()
    assert isinstance(reply[1], Reply)
    assert {path.name for path in (tmp_path / "home").iterdir()} == {"participants"}


def test_noise_on_the_torch_engine_is_refused(clinics: str, tmp_path: Path) -> None:
    run = federated(clinics, **PRIVATE, send_optimizer_state=False)
    with pytest.raises(LayerlineError, match="clipping and noise are Flower's") as refused:
        api.train(run)
    assert refused.value.hint
    assert "--engine flower" in refused.value.hint
