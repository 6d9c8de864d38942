"""Exchange after every minibatch: the same bits as loops by hand, after any interruption, and what it sends."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerline import api
from layerline.data.dataset import Examples
from layerline.data.shards import BaseShards
from layerline.errors import CheckpointError, Stopped, UsageError
from layerline.events import EpochDone, Event, Minibatch, RowKept
from layerline.run import Run
from layerline.runtime.chapters import ChapterTrainer
from layerline.runtime.model import build_model
from layerline.runtime.needs import last_slots
from layerline.runtime.pipeline import Measured, Pipeline, make_node
from layerline.runtime.planning import planned, sizes_of
from layerline.runtime.saved import weights_sha256
from layerline.runtime.seeding import generator
from layerline.runtime.snapshots import Snapshots, rounds_between
from layerline.runtime.stop import Stop
from layerline.schedules.costs import Machine, World, estimate
from layerline.schedules.plan import Plan
from layerline.schedules.simulate import simulate
from small_runs import BACKPROP, LOCAL, UNSUPERVISED, plan_through, small_data, small_run

DATA = small_data()
RULES: dict[str, dict[str, Any]] = {
    "random": {},
    "fixed, softmax": {"negatives": {"kind": "fixed"}, "readout": {"kind": "softmax"}},
    "adaptive": {"negatives": {"kind": "adaptive"}},
    "sampled, softmax": {"negatives": {"kind": "sampled"}, "readout": {"kind": "softmax"}},
    "local cross-entropy": LOCAL,
    "unsupervised": UNSUPERVISED,
}
AVERAGED: dict[str, Any] = {"schedule": {"kind": "federated", "average": True}}
UNEVEN: dict[str, Any] = {"shards": {"kind": "dirichlet", "concentration": 0.5}}


def per_batch(**settings: Any) -> Run:
    base = {"order": "chapters", "epochs": 4, "chapters": 2, "schedule": {"kind": "all-layers"}, "exchange": "batch"}
    return small_run(**(base | settings))


def plan_of(run: Run) -> Plan:
    return planned(run, run.block_count, examples=len(DATA.train))


def carry_out(run: Run, folder: Path, stops: list[int] | None = None) -> str:
    return plan_through(run, plan_of(run), DATA, folder, stops or [])


def one_machine(run: Run) -> str:
    """Every block, one after the other, on each minibatch in turn; labels by the network's scores between chapters."""
    node = ChapterTrainer(build_model(run, DATA), DATA)
    normaliser = node.model.network.normaliser
    for epoch in range(run.epochs):
        chapter, within = divmod(epoch, run.epochs_per_chapter)
        if within == 0:
            node.begin_chapter(chapter)
        order_n, augmentation_n = node.order(epoch), node.data.augmentation(chapter)
        for block, learner in enumerate(node.learners):
            learner.begin_epoch(generator(run.seed, "dropout", block, epoch))
        for batch in range(node.batches):
            part = node.batch_slice(batch)
            indices_B = order_n[part.start : part.stop]
            labels_B = node.data.labels[indices_B]
            x = node.first_input(indices_B, chapter, augmentation_n)
            for learner in node.learners:
                learner.learn(x, labels_B, node.lr(epoch, batch), batch)
                x = normaliser(learner.forward(x))
            if node.head:
                features = node.neutral_features(indices_B, augmentation_n)
                node.head.learn(features, labels_B, node.head_lr(epoch, batch))
    return weights_sha256(node.model)


@pytest.mark.parametrize("rule", RULES)
def test_a_ring_is_one_machine_that_trains_all_blocks_on_each_minibatch(rule: str, tmp_path: Path) -> None:
    """Also with judged negatives: labels are those of the chapter before, whoever made them."""
    expected = one_machine(per_batch(**RULES[rule]))
    for nodes in (1, 2, 3):
        assert carry_out(per_batch(nodes=nodes, **RULES[rule]), tmp_path / str(nodes)) == expected


@pytest.mark.parametrize("shards", [{}, UNEVEN], ids=["iid", "dirichlet"])
def test_averaging_is_data_parallel_local_learning(shards: dict[str, Any], tmp_path: Path) -> None:
    """Three copies, each on its part of every minibatch; before a block learns, it becomes the mean of its copies, by
    their examples: unequal parts of a minibatch count as they would in one machine's."""
    run = per_batch(nodes=3, **AVERAGED, **shards)
    assert isinstance(run.shards, BaseShards)
    parts = [torch.from_numpy(p) for p in run.shards.split(DATA.train.labels.numpy(), 3, run.seed)]
    shard = [Examples(DATA.train.inputs[p], DATA.train.labels[p]) for p in parts]
    counts = [len(part) for part in parts]
    model = build_model(run, DATA)
    copies = [ChapterTrainer(copy.deepcopy(model), type(DATA)("", s, s, DATA.classes)) for s in shard]
    batches = -(-14 // run.batch_size)  # 41 images: the largest of three equal parts
    for node in copies:
        node.batches = batches
    first = True
    for epoch in range(run.epochs):
        for batch in range(batches):
            inputs = []
            for node in copies:
                if batch == 0 and epoch % run.epochs_per_chapter == 0:
                    node.begin_plain_chapter(epoch // run.epochs_per_chapter)
                n = len(node.data)
                indices = node.order(epoch)[batch * n // batches : (batch + 1) * n // batches]
                inputs.append((node.first_input(indices, 0, None), node.data.labels[indices]))
            for block in range(3):
                if not first:
                    states = [{k: v.clone() for k, v in n.learner_tensors(block).items()} for n in copies]
                    for node in copies:
                        node.load_block(block, states, moments=True, counts=counts)
                for index, (node, (x, labels_B)) in enumerate(zip(copies, inputs, strict=True)):
                    learner = node.learners[block]
                    learner.learn(x, labels_B, node.lr(epoch, batch), batch)
                    inputs[index] = node.model.network.normaliser(learner.forward(x)), labels_B
            first = False
    for block in range(3):
        copies[0].load_block(block, [n.learner_tensors(block) for n in copies], moments=False, counts=counts)
    assert carry_out(run, tmp_path) == weights_sha256(copies[0].model)


RUNS = {
    **{f"ring, {rule}": per_batch(nodes=3, **RULES[rule]) for rule in RULES},
    **{f"averaged, {rule}": per_batch(nodes=2, **AVERAGED, **RULES[rule]) for rule in ("random", "sampled, softmax")},
    "averaged, backprop": per_batch(nodes=2, **AVERAGED, **BACKPROP),
    "uneven shards": per_batch(nodes=4, **AVERAGED, **UNEVEN),
    "grid": per_batch(nodes=6),
    "moments stay": per_batch(nodes=2, send_optimizer_state=False),
    "bf16": per_batch(nodes=2, **AVERAGED, codec={"kind": "bf16"}),
    "unequal nodes": per_batch(nodes=3, speeds=(1.0, 0.6, 0.5), epochs=8),
}


@pytest.mark.parametrize("name", RUNS)
@settings(max_examples=3, deadline=None)
@given(stops=st.lists(st.integers(1, 30), max_size=3), seconds=st.sampled_from([0.0, 0.02, 0.05]))
def test_stopping_anywhere(
    name: str, stops: list[int], seconds: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """From the last snapshot on the bits are those of an undisturbed run, and only the finished blocks stay on disk."""
    run = RUNS[name].replace(checkpoint_seconds=seconds)
    undisturbed = carry_out(RUNS[name], tmp_path_factory.mktemp("undisturbed"))
    folder = tmp_path_factory.mktemp("stopped")
    assert carry_out(run, folder, stops) == undisturbed
    plan = plan_of(run)
    pipeline = Pipeline(run, plan, DATA, folder)
    pipeline.tidy()
    assert {int(path.stem) for path in folder.glob("slots/*.safetensors")} == set(last_slots(plan))
    finished = set(Measured.of(pipeline.slots, plan.nodes).rows())
    assert len(finished) >= run.epochs * plan.stages


def test_states_that_nobody_goes_back_to_are_deleted(tmp_path: Path) -> None:
    run = per_batch(nodes=2, checkpoint_seconds=0.0, **AVERAGED)
    pipeline, most = Pipeline(run, plan_of(run), DATA, tmp_path), 0

    def hear(event: Event) -> None:
        nonlocal most
        most = max(most, len(list(tmp_path.glob("slots/*.safetensors")))) if isinstance(event, RowKept) else most

    pipeline.work(hear, Stop(), pipeline.here())
    assert most <= 2 * 2 + len(last_slots(pipeline.plan))


def test_what_is_saved_is_not_trained_again(tmp_path: Path) -> None:
    run = per_batch(nodes=3, checkpoint_seconds=0.0)
    with pytest.raises(Stopped, match=r"24 of 36 minibatches are saved"):
        stopped_after(run, tmp_path, 26)
    pipeline, trained = Pipeline(run, plan_of(run), DATA, tmp_path), 0
    assert pipeline.minibatches() == (24, 36)

    def hear(event: Event) -> None:
        nonlocal trained
        trained += isinstance(event, Minibatch | EpochDone)

    pipeline.work(hear, Stop(), pipeline.here())
    assert trained == 36 - 24


def stopped_after(run: Run, folder: Path, minibatches: int) -> None:
    """One sitting."""
    pipeline, stop, heard = Pipeline(run, plan_of(run), DATA, folder), Stop(), itertools.count(1)

    def hear(event: Event) -> None:
        if isinstance(event, Minibatch | EpochDone) and next(heard) == minibatches:
            stop.exit_status = 75

    pipeline.work(hear, stop, pipeline.here())


def test_a_state_that_is_damaged_is_refused(tmp_path: Path) -> None:
    run = per_batch(nodes=2, checkpoint_seconds=0.0)
    with pytest.raises(Stopped):
        stopped_after(run, tmp_path, 20)
    for path in tmp_path.glob("slots/*.safetensors"):
        damaged = bytearray(path.read_bytes())
        damaged[-3] ^= 1
        path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="damaged"):
        carry_out(run, tmp_path)


@given(kept=st.lists(st.integers(0, 11), min_size=3, max_size=3))
@settings(deadline=None)
def test_nodes_go_on_from_the_last_snapshot_they_all_have(kept: list[int]) -> None:
    """Each node has kept its states at the first so many snapshots; what it has done since then does not count."""
    run = per_batch(nodes=3)
    plan = plan_of(run)
    snapshots = Snapshots(plan, 1)
    assert len(snapshots.rows) == plan.rounds - 1 == 11
    states = {
        node: {snapshots.state(node, snapshot) for snapshot in snapshots.rows[:count]}
        for node, count in enumerate(kept)
    }
    snapshot = snapshots.latest(states)
    assert all(snapshots.state(node, snapshot) in rows | {-1} for node, rows in states.items())
    later = [each for each in snapshots.rows if each > snapshot]
    assert all(any(snapshots.state(node, each) not in rows | {-1} for node, rows in states.items()) for each in later)
    assert snapshots.latest({0: set(), 1: set(), 2: set()}) == 0, "node 1 has begun at every snapshot"
    last = {node: {r for r in last_slots(plan) if plan.node[r] == node} for node in range(3)}
    assert snapshots.latest(last) == len(plan)


def test_what_was_planned_is_sent(tmp_path: Path) -> None:
    """Beside it every message has a header and a table, of the same size for all blocks here."""
    for settings_of_run in ({"nodes": 3}, AVERAGED | {"nodes": 3}, {"nodes": 2, "send_optimizer_state": False}):
        run = per_batch(**settings_of_run)
        result = api.train(run, data=DATA)
        sizes = sizes_of(run, DATA.shape, DATA.num_classes, len(DATA.train))
        assert sizes is not None
        plan = planned(run, 3, sizes)
        world = World(moments_travel=run.send_optimizer_state)
        found = simulate(plan, estimate(sizes, Machine()), world)
        beside = (result.values["bytes_sent"] - int(found.bytes.sum())) / len(found.messages)
        assert 0 < beside < 1000


def test_shards_of_any_size_meet_equally_often() -> None:
    run = per_batch(nodes=4, **AVERAGED, shards={"kind": "dirichlet", "concentration": 0.05})
    plan = plan_of(run)
    nodes = [make_node(run, plan, DATA, number) for number in range(4)]
    assert len({len(node.data) for node in nodes}) > 1
    for node in nodes:
        slices = [node.batch_slice(batch) for batch in range(node.batches)]
        assert {i for part in slices for i in part} == set(range(len(node.data)))
        assert all(slices)


def test_snapshots_are_counted_by_the_formula_not_by_a_clock() -> None:
    run = per_batch(nodes=2, checkpoint_seconds=30.0)
    plan, sizes = plan_of(run), sizes_of(run, DATA.shape, DATA.num_classes, len(DATA.train))
    assert rounds_between(run, plan, sizes) == plan.rounds  # it is over before
    assert rounds_between(run.replace(checkpoint_seconds=0.0), plan, sizes) == 1
    assert rounds_between(run, plan, None) == 200


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "one node": ({"schedule": {"kind": "sequential"}}, "the sequential schedule exchanges per chapter only"),
    "owners": ({"schedule": {"kind": "single-layer"}, "nodes": 3}, "the single-layer schedule exchanges per chapter"),
    "activations": ({"schedule": {"kind": "dff"}, "nodes": 3}, "the dff schedule exchanges per chapter only"),
    "relay": ({"schedule": {"kind": "federated"}, "nodes": 3}, "a federated relay exchanges per chapter only"),
    "no chapters": ({"order": "simultaneous", "schedule": {"kind": "sequential"}}, "no nodes that could exchange"),
    "differences": ({"codec": {"kind": "int8"}}, "int8 sends differences"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_where_it_means_nothing(why: str) -> None:
    settings_of_run, message = REFUSED[why]
    with pytest.raises(UsageError, match=message):
        per_batch(**settings_of_run)


def test_it_is_another_training() -> None:
    """The run and its plan are recognised by it."""
    chapter, batch = per_batch(nodes=3, exchange="chapter"), per_batch(nodes=3)
    assert chapter.digest() != batch.digest()
    assert plan_of(chapter).digest() != plan_of(batch).digest()
    one = per_batch(nodes=3, batch_size=64)  # one minibatch an epoch
    one_chapter = one.replace(exchange="chapter", chapters=4)
    assert plan_of(one.replace(chapters=4)).digest() != plan_of(one_chapter).digest()
