"""The Run: through TOML and back, impossible ones refused with a way out, a digest of what decides the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerline.base_run import Augment, read_toml
from layerline.blocks.network import Mlp
from layerline.blocks.normaliser import L2Norm, NoNorm, RmsNorm
from layerline.data.labels import LabelInput
from layerline.data.shards import ByLabel, Dirichlet, Iid
from layerline.errors import UsageError
from layerline.negatives.labels import Adaptive, Fixed, Random, Sampled
from layerline.negatives.masks import MaskedHybrid
from layerline.objectives.forward_forward import ForwardForward
from layerline.objectives.local_cross_entropy import LocalCrossEntropy
from layerline.objectives.losses import Logistic, SiluMargin, SymBa
from layerline.objectives.optimizer import Adam, Constant, CoolDown, Cosine
from layerline.readouts.readouts import AllHeads, Goodness, LastHead, Softmax
from layerline.run import Run
from layerline.schedules.all_layers import AllLayers
from layerline.schedules.dff import Dff
from layerline.schedules.federated import Federated
from layerline.schedules.sequential import Sequential
from layerline.schedules.single_layer import SingleLayer
from layerline.transport.codecs import Bf16, Fp32, Int8
from layerline.transport.privacy import Clipped, LocalDp, Open

POSITIVE = st.floats(1e-8, 100, exclude_min=True)
SHARE = st.floats(0, 1, exclude_max=True)
NEGATIVES = st.one_of(
    st.builds(Fixed),
    st.builds(Random),
    st.builds(Adaptive),
    st.builds(Sampled, judge=st.sampled_from(["readout", "first-block"])),
    st.builds(MaskedHybrid, blurs=st.integers(1, 9), bank=st.integers(1, 99)),
)
LOSSES = st.one_of(
    st.builds(Logistic, theta=st.floats(-50, 2000)),
    st.builds(SymBa, alpha=POSITIVE),
    st.builds(SiluMargin, beta=POSITIVE),
)
OBJECTIVES = st.one_of(
    st.builds(ForwardForward, goodness=st.sampled_from(["mean", "sum"]), loss=LOSSES, peer=SHARE, peer_decay=SHARE),
    st.builds(LocalCrossEntropy, dropout=SHARE),
)
READOUTS = st.one_of(
    st.builds(Goodness, skip=st.integers(0, 2)),
    st.builds(Softmax, skip=st.integers(0, 2)),
    st.builds(LastHead),
    st.builds(AllHeads, skip=st.integers(0, 2)),
)
NORMALISERS = st.one_of(st.builds(RmsNorm, eps=SHARE), st.builds(L2Norm, eps=SHARE), st.builds(NoNorm))
WIDTHS = st.lists(st.integers(1, 5000), min_size=1, max_size=5).map(tuple)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "preset": st.text(max_size=20),
    "dataset": st.text(max_size=20),
    "validation": st.booleans(),
    "standardise": st.sampled_from(["none", "global", "channel"]),
    "augment": st.builds(Augment, shift=st.integers(0, 8), flip=st.booleans()),
    "network": st.builds(Mlp, widths=WIDTHS, init=st.sampled_from(["torch", "fan-in"]), normaliser=NORMALISERS),
    "labels": st.builds(LabelInput, strength=POSITIVE, position=st.sampled_from(["first", "last", "append"])),
    "objective": OBJECTIVES,
    "negatives": NEGATIVES,
    "readout": READOUTS,
    "order": st.sampled_from(["simultaneous", "chapters"]),
    "schedule": st.one_of(
        st.builds(Sequential),
        st.builds(AllLayers),
        st.builds(
            SingleLayer,
            hand_over=st.sampled_from(["weights", "activations"]),
            ranking=st.sampled_from(["last", "shared"]),
            delay=st.none() | st.lists(st.integers(1, 9), min_size=1).map(tuple),
        ),
        st.builds(Federated, average=st.booleans(), mean=st.sampled_from(["examples", "equal"])),
        st.builds(Dff, batch=st.sampled_from(["full", "mini"])),
    ),
    "exchange": st.sampled_from(["chapter", "chapter", "batch"]),
    "nodes": st.integers(1, 9),
    "send_optimizer_state": st.booleans(),
    "codec": st.one_of(
        st.builds(Fp32), st.builds(Bf16), st.builds(Int8, first=st.sampled_from(["int8", "bf16", "exact"]))
    ),
    "privacy": st.one_of(
        st.builds(Open), st.builds(Clipped, clipping=POSITIVE), st.builds(LocalDp, epsilon=st.floats(0.01, 8.0))
    ),
    "shards": st.one_of(st.builds(Iid), st.builds(ByLabel), st.builds(Dirichlet, concentration=POSITIVE)),
    "batch_size": st.integers(1, 10**6),
    "shuffle": st.sampled_from(["epoch", "once"]),
    "optimizer": st.builds(Adam, lr=POSITIVE, head_lr=st.none() | POSITIVE, beta1=SHARE, weight_decay=SHARE),
    "rate": st.one_of(st.builds(Constant), st.builds(CoolDown), st.builds(Cosine, warmup=SHARE)),
    "precision": st.sampled_from(["bf16-mixed", "32-true"]),
    "seed": st.integers(0, 2**64),
    "threads": st.none() | st.integers(1, 64),
    "device": st.sampled_from(["auto", "cpu", "cuda"]),
    "eval_every": st.integers(0, 10),
    "checkpoint_seconds": st.floats(0, 1e6),
    "beside": st.sampled_from(["none", "none", "none", "fedavg"]),
}


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    """Fields of a Run, each fine by itself; perhaps impossible together."""
    chapters = draw(st.none() | st.integers(1, 20))
    epochs = draw(st.integers(1, 10)) * (chapters or 1)
    drawn = {name: draw(values) for name, values in FIELDS.items()} | {"epochs": epochs, "chapters": chapters}
    speeds = draw(st.just([]) | st.lists(POSITIVE, min_size=drawn["nodes"], max_size=drawn["nodes"]))
    return drawn | {"speeds": tuple(speeds)}


def run_or_none(fields: dict[str, Any]) -> Run | None:
    try:
        return Run(**fields)
    except UsageError:
        return None


@given(fields=tables())
@settings(max_examples=200, deadline=None)
def test_through_toml_and_back(fields: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    run = run_or_none(fields)
    if run is None:
        return
    path = tmp_path_factory.getbasetemp() / "run.toml"
    path.write_text(run.to_toml(), encoding="utf-8")
    again = Run.from_toml(path)
    assert again == run
    assert again.digest() == run.digest()
    assert Run.from_dict(run.to_dict()) == run
    assert run.epochs_per_chapter * run.chapter_count == run.epochs


@given(fields=tables())
@settings(max_examples=200, deadline=None)
def test_a_possible_run_can_be_read_out(fields: dict[str, Any]) -> None:
    """Whatever gets through: its readout fits its objective and has a block to read."""
    run = run_or_none(fields)
    if run is None:
        return
    local = isinstance(run.objective, LocalCrossEntropy)
    assert not isinstance(run.network, Mlp) or len(run.network.widths) > getattr(run.readout, "skip", 0)
    if isinstance(run.readout, Goodness):
        assert not local
        assert run.writes_labels
    if isinstance(run.readout, LastHead | AllHeads):
        assert local


def test_every_field_is_drawn() -> None:
    assert set(FIELDS) | {"epochs", "chapters", "speeds"} == set(Run.model_fields)


PRIVATE: dict[str, Any] = {"privacy": {"kind": "local-dp"}, "send_optimizer_state": False, "nodes": 2}
FEDERATED: dict[str, Any] = {"schedule": {"kind": "federated", "average": True}, "order": "chapters"}

IMPOSSIBLE: dict[str, tuple[dict[str, Any], str]] = {
    "noise, moments travel": (
        PRIVATE | FEDERATED | {"send_optimizer_state": True},
        "moments(.|\n)*--no-send-optimizer-state",
    ),
    "noise, all-layers": (PRIVATE | {"schedule": {"kind": "all-layers"}, "order": "chapters"}, "--schedule federated"),
    "noise, per batch": (PRIVATE | FEDERATED | {"exchange": "batch"}, "--exchange chapter"),
    "too little noise for what it promises": (
        PRIVATE | FEDERATED | {"privacy": {"kind": "local-dp", "epsilon": 20.0}},
        "smaller --epsilon",
    ),
    "updates further apart than said": (
        PRIVATE | FEDERATED | {"privacy": {"kind": "local-dp", "clipping": 2.0, "sensitivity": 1.0}},
        "--sensitivity",
    ),
    "chapters": ({"epochs": 10, "chapters": 4}, "4 chapters do not divide 10 epochs\n.*--chapters 2"),
    "more chapters than epochs": ({"epochs": 4, "chapters": 10}, "10 chapters do not divide 4 epochs\n.*--chapters 4"),
    "width 0": ({"network": {"kind": "mlp", "widths": [5, 0]}}, "at least one unit"),
    "negative width": ({"network": {"kind": "mlp", "widths": [5, -3]}}, "at least one unit"),
    "no blocks": ({"network": {"kind": "mlp", "widths": []}}, "network.widths"),
    "negative epochs": ({"epochs": -1}, "epochs: input should be greater than or equal to 1, got -1"),
    "softmax of one block": (
        {"network": {"kind": "mlp", "widths": [5]}, "readout": {"kind": "softmax"}},
        "leaves out 1 of 1.*\n.*skip 0",
    ),
    "goodness of one block": ({"network": {"kind": "mlp", "widths": [5]}}, "nothing is left to read"),
    "all skipped": (
        {"network": {"kind": "mlp", "widths": [5, 5]}, "readout": {"kind": "goodness", "skip": 2}},
        "leaves out 2 of 2",
    ),
    "goodness of heads": ({"objective": {"kind": "local-cross-entropy"}}, "no goodness to read\n.*all-heads"),
    "heads of goodness": ({"readout": {"kind": "last-head"}}, "have no heads.*\n.*--readout goodness"),
    "all heads of goodness": ({"readout": {"kind": "all-heads"}}, "have no heads"),
    "judged by the first block in chapters": (
        {"order": "chapters", "negatives": {"kind": "sampled", "judge": "first-block"}},
        "minibatch by minibatch.*\n.*--order simultaneous",
    ),
    "nodes without chapters": ({"nodes": 2}, "2 nodes cannot share simultaneous.*\n.*--order chapters"),
    "a schedule without chapters": (
        {"schedule": {"kind": "all-layers"}},
        "the all-layers schedule cannot share simultaneous.*\n.*--order chapters",
    ),
    "no nodes": ({"nodes": 0}, "nodes: input should be greater than or equal to 1"),
    "speeds of other nodes": (
        {"order": "chapters", "nodes": 3, "speeds": [1, 2]},
        "2 speeds for 3 nodes\n.*--speeds 1,1,1",
    ),
    "speed 0": ({"order": "chapters", "nodes": 2, "speeds": [1, 0]}, "speeds are numbers above 0, got 1, 0"),
    "hybrids and goodness": ({"negatives": {"kind": "masked-hybrid"}}, "know no labels.*\n.*softmax"),
    "no batch": ({"batch_size": 0}, "batch_size: input should be greater than or equal to 1"),
    "rate 0": ({"optimizer": {"lr": 0}}, "optimizer.lr: input should be greater than 0"),
    "not a number": ({"optimizer": {"lr": float("nan")}}, "optimizer.lr: .*finite"),
    "dropout 1": (
        {"objective": {"kind": "local-cross-entropy", "dropout": 1}},
        "^x.toml: objective.dropout: .*less than 1",
    ),
    "strength 0": ({"labels": {"strength": 0}}, "labels.strength"),
    "words": ({"epochs": "many"}, "epochs: input should be a valid integer"),
    "not a table": ({"readout": "softmax"}, "readout: "),
}


@pytest.mark.parametrize(("fields", "message"), IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_impossible(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        Run.from_dict(fields, "x.toml")
    assert refused.value.exit_status == 2


UNKNOWN: list[tuple[dict[str, Any], str]] = [
    ({"epoch": 3}, "x.toml: unknown setting 'epoch'; did you mean 'epochs'?"),
    ({"widths": [3]}, "x.toml: unknown setting 'widths'; did you mean 'network.widths'?"),
    (
        {"optimizer": {"weight_dekay": 1}},
        "x.toml: unknown setting 'optimizer.weight_dekay'; did you mean 'weight_decay'?",
    ),
    ({"optimizer": {"dropout": 0.5}}, "x.toml: unknown setting 'optimizer.dropout'; did you mean 'objective.dropout'?"),
    (
        {"objective": {"kind": "forward-forward", "loss": {"kind": "silu-margin", "betta": 1}}},
        "x.toml: unknown setting 'objective.loss.betta'; did you mean 'beta'?",
    ),
    (
        {"objective": {"kind": "forward-forward", "loss": {"kind": "symba", "beta": 1}}},
        "x.toml: unknown setting 'objective.loss.beta'; there is: alpha, kind",
    ),
    (
        {"network": {"kind": "mlp", "normaliser": {"kind": "rms", "epsilo": 1}}},
        "x.toml: unknown setting 'network.normaliser.epsilo'; did you mean 'eps'?",
    ),
    ({"negatives": {"kind": "adaptiv"}}, "x.toml: negatives: there is no 'adaptiv'; did you mean 'adaptive'?"),
    (
        {"objective": {"kind": "forward-forward", "loss": {"kind": "hinge"}}},
        "x.toml: objective.loss: there is no 'hinge'; there is: logistic, silu-margin, symba",
    ),
    (
        {"objective": {"kind": "forward-forward", "goodness": "men"}},
        "x.toml: objective.goodness: input should be 'mean' or 'sum', got 'men'",
    ),
    ({"readout": {"kind": "goodness", "skip": -1}}, "x.toml: readout.skip: input should be greater than"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "message"), UNKNOWN)
def test_unknown_names(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        Run.from_dict(fields, "x.toml")
    assert refused.value.what.startswith(message)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*none.toml: No such file"):
        read_toml(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="cannot read"):
        read_toml(tmp_path)
    path = tmp_path / "run.toml"
    path.write_text("epochs = = 3")
    with pytest.raises(UsageError, match=r"run.toml is not TOML: .*line 1"):
        Run.from_toml(path)
    path.write_bytes(b"preset = '\xff'")
    with pytest.raises(UsageError, match="is not TOML"):
        Run.from_toml(path)
    path.write_text("epoch = 3")
    with pytest.raises(UsageError, match=f"{path}: unknown setting 'epoch'"):
        Run.from_toml(path)


INDIFFERENT = {"preset": "other", "eval_every": 3, "checkpoint_seconds": 0.0}


def test_digest() -> None:
    """It changes with every setting that decides the result, and with no other."""
    run = Run(network=Mlp(widths=(8, 8, 8)), order="chapters")
    changes: dict[str, Any] = {
        "dataset": "other",
        "validation": True,
        "standardise": "channel",
        "augment": Augment(shift=1),
        "network": Mlp(widths=(8, 8, 9)),
        "labels": LabelInput(strength=2),
        "objective": ForwardForward(peer=0.1),
        "negatives": Fixed(),
        "readout": Softmax(),
        "order": "simultaneous",
        "epochs": 20,
        "chapters": 5,
        "schedule": AllLayers(),
        "nodes": 2,
        "speeds": (2.0,),
        "send_optimizer_state": False,
        "shards": ByLabel(),
        "codec": Bf16(),
        "batch_size": 2,
        "shuffle": "once",
        "optimizer": Adam(beta1=0.5),
        "rate": Constant(),
        "precision": "32-true",
        "seed": 1,
        "threads": 1,
        "device": "cpu",
    }
    assert set(changes) | set(INDIFFERENT) | {"exchange", "privacy", "beside"} == set(Run.model_fields)
    ring = run.replace(schedule=AllLayers())  # exchange by itself fits no run of one node
    assert ring.replace(exchange="batch").digest() != ring.digest()
    average = run.replace(schedule=Federated(average=True), send_optimizer_state=False)  # nor does privacy
    assert average.replace(privacy=Clipped()).digest() != average.digest()
    assert average.replace(schedule=Federated(average=True, mean="equal")).digest() != average.digest()
    assert average.replace(beside="fedavg").digest() == average.digest()  # only for federated runs
    digests = {run.digest()} | {run.replace(**{name: value}).digest() for name, value in changes.items()}
    assert len(digests) == len(changes) + 1
    assert run.replace(**INDIFFERENT).digest() == run.digest()


def test_replace_validates() -> None:
    run = Run(epochs=10)
    assert run.replace(epochs=5).epochs == 5
    assert run.epochs == 10
    with pytest.raises(UsageError, match="do not divide"):
        run.replace(chapters=3)


def test_which_runs_write_labels() -> None:
    assert Run().writes_labels
    assert not Run(negatives=MaskedHybrid(), readout=Softmax()).writes_labels
    assert not Run(objective=LocalCrossEntropy(), readout=AllHeads()).writes_labels


def test_a_table_without_a_kind_has_that_of_the_default() -> None:
    run = Run.from_dict({"network": {"widths": [5, 6]}, "readout": {"skip": 0}, "objective": {"loss": {"beta": 3}}})
    assert run == Run(
        network=Mlp(widths=(5, 6)), readout=Goodness(skip=0), objective=ForwardForward(loss=SiluMargin(beta=3))
    )
