"""What participants let out of the house: every message of a run, as Flower carries it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from flwr.app import Context, Message, RecordDict

from layerline.data.digits import load_digits
from layerline.run import Run
from layerline.runtime.flower import app
from layerline.runtime.flower.conductor import Conductor
from layerline.runtime.flower.federation import Federation, Refused
from layerline.runtime.pipeline import Pipeline, part_of
from layerline.runtime.planning import plan_of
from layerline.transport.link import Incoming
from layerline.transport.message import Wire
from runtime.flower.overheard import Overheard, bytes_of
from small_runs import small_run

pytestmark = pytest.mark.usefixtures("identity")

RUN: Run = small_run(
    dataset="digits",
    order="chapters",
    epochs=3,
    chapters=3,
    nodes=2,
    schedule={"kind": "federated"},
    negatives={"kind": "adaptive"},
    standardise="none",
)


def test_nothing_of_the_data_is_in_any_message(tmp_path: Path) -> None:
    data = load_digits()
    plan = plan_of(RUN, data)
    pipeline = Pipeline(RUN, plan, data, tmp_path / "server", nodes=())
    link = Overheard(tmp_path / "participants")
    conductor = Conductor(plan, pipeline.slots)
    federation = Federation(link, conductor, RUN.to_toml(), "run", 5.0, 5.0, lambda words: None)
    federation.carry_out(lambda: None)
    assert set(federation.judge()) == {0, 1}

    blobs = [blob for message in link.said for blob in bytes_of(message.content)]
    assert sum(map(len, blobs)) > 10_000
    for node in range(2):
        own = part_of(RUN, plan, data, node)
        examples = own.train.inputs.flatten(1)
        for kind in (examples, examples.float(), examples.float() / 255, examples.float() / 16):
            raw = [each.numpy().tobytes() for each in kind.unique(dim=0)]
            assert not any(each in blob for each in raw for blob in blobs)
        for labels in (own.train.labels, own.train.labels.byte(), own.train.labels.short(), own.train.labels.int()):
            assert not any(labels[:32].numpy().tobytes() in blob for blob in blobs)

    refuse = Wire(b"\0" * 32, 0, "").refuse
    for parcel in (parcel for message in link.said for parcel in app.parcels_of(message.content)):
        tensors = Incoming().decode(parcel.message(plan, ""), refuse)
        assert {name.split(".")[0] for name in tensors} <= {"block", "state", "head", "optimizer"}
        assert all(len(tensor) != 719 for tensor in tensors.values() if tensor.dim())  # one for every example

    told = {"row", "durable", "sitting", "begin", "end", "handed", "bytes", "transfers", "metrics"}
    numbers = {"epoch", "block", "loss", "accuracy", "goodness_positive", "goodness_negative"}
    for message in link.said:
        for fact in json.loads(app.said_in(message.content).get("facts", "[]")):
            assert set(fact) <= told
            assert all(set(row) <= numbers for row in fact["metrics"])


def test_a_participant_without_its_number_says_so(tmp_path: Path) -> None:
    message = Message(RecordDict(), 1, "query.hello")
    reply = app.read(app.client(message, Context(1, 1, {}, RecordDict(), {})))
    assert isinstance(reply, Refused)
    assert "partition-id" in reply.hint
    assert reply.status == 2
