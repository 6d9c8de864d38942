"""Blocks that run freely: when that is the synchronous stream, doing a run again, and stopping it anywhere."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerline import api
from layerline.errors import UsageError
from layerline.runtime.execute import make_trainer
from layerline.runtime.stream.free import FreeTrainer
from layerline.runtime.stream.stage import Stage
from small_runs import EpochDone, Outcome, fresh_model, minibatches, small_data, small_stream, train_through

DATA = small_data(count=37, classes=3, shape=(1, 8, 8))
VQ = {"kind": "vq", "dims": 2, "codes": 4, "refresh": 2}
FAST = {"network": {"kind": "conv", "widths": [4, 4, 4], "classifier": "linear"}}


@cache
def synchronous() -> Outcome:
    return train_through(small_stream(), DATA, [])


@pytest.mark.parametrize(
    "timing",
    [
        {"buffer": 1},
        {"buffer": 4, "max_reuse": 2},
        {"slowdowns": [2, 2, 2]},
        {"slowdowns": [4, 1, 2], "max_reuse": 1},
    ],
)
def test_where_nobody_overtakes_it_is_the_synchronous_stream(timing: dict[str, Any]) -> None:
    """Equal speeds, or a slowest first block whose minibatches are used once: all take all, in order."""
    free = train_through(small_stream(timing={"kind": "async"} | timing), DATA, [])
    assert free.sha256 == synchronous().sha256
    assert sorted(map(repr, free.rows)) == sorted(map(repr, synchronous().rows))


def test_an_epoch_that_is_cut_short_is_not_looked_at() -> None:
    """In step it never was; blocks that ran freely told the accuracy "after epoch 1" after some of its minibatches."""
    for timing in ("sync", "async"):
        run = small_stream(timing={"kind": timing}, eval_every=1)
        for most, looks in ((None, [1, 2]), (4, [1]), (3, [1]), (2, [])):
            values = api.train(run.replace(max_steps=most), data=DATA).values
            assert [point["epoch"] for point in values["curve"]] == looks


def test_the_result_says_how_often_minibatches_were_used() -> None:
    run = small_stream(timing={"kind": "async", "slowdowns": [2, 1, 4]})
    values = api.train(run, data=DATA).values
    first, second, third = values["blocks"]
    assert first["uses"] == 1
    assert second["uses"] > 1 >= third["uses"]
    assert values["events"] == sum(block["steps"] for block in values["blocks"])


def test_microbatches_add_up_as_in_the_synchronous_stream() -> None:
    apart = {"microbatches": 3}
    free = train_through(small_stream(timing={"kind": "async"}, **apart), DATA, [])
    assert free.sha256 == train_through(small_stream(**apart), DATA, []).sha256 != synchronous().sha256


@pytest.mark.parametrize("slowdowns", [[1, 1, 2], [2, 1, 1], [1, 2, 1]])
def test_a_slow_block_makes_another_network_and_every_block_has_its_epochs(slowdowns: list[float]) -> None:
    run = small_stream(timing={"kind": "async", "slowdowns": slowdowns})
    trainer = make_trainer(fresh_model(run, DATA), DATA)
    assert isinstance(trainer, FreeTrainer)
    epochs = [event for event in trainer.train() if isinstance(event, EpochDone)]
    assert sorted((row.block, row.epoch) for event in epochs for row in event.rows) == [
        (block, epoch) for block in "123" for epoch in (1, 2)
    ]
    assert not trainer._waiting
    assert train_through(run, DATA, []).sha256 != synchronous().sha256


@pytest.mark.parametrize("slowdowns", [[1, 1, 3], [3, 1, 1], [1, 3, 1]])
def test_all_blocks_come_to_the_end_of_the_data_and_of_the_rate(slowdowns: list[float]) -> None:
    """Each had as many steps as the others: those after a slow block were done while it still changed, and stayed with
    outputs that it no longer put out. On CIFAR-10 a first block a fifth slower cost them 1.6 points."""
    run = small_stream(timing={"kind": "async", "slowdowns": slowdowns}, rate={"kind": "cosine"})
    trainer = make_trainer(fresh_model(run, DATA), DATA)
    assert isinstance(trainer, FreeTrainer)
    rates: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for stage, update in [(stage, stage.update) for stage in trainer.stages]:

        def noted(lr: float, stage: Stage = stage, update: Callable[[float], None] = update) -> None:
            rates[stage.index].append(lr)
            update(lr)

        stage.update = noted  # type: ignore[method-assign]
    for _ in trainer.train():
        pass
    steps = trainer.feed.steps
    assert len(rates[0]) == steps, "the first block takes every minibatch of the data"
    assert {each[0] for each in rates.values()} == {trainer.feed.lr(0)}
    assert {each[-1] for each in rates.values()} == {trainer.feed.lr(steps - 1)}
    assert all(each == sorted(each, reverse=True) for each in rates.values())
    assert min(rates, key=lambda block: len(rates[block])) == slowdowns.index(3)


def test_what_a_block_puts_out_is_sent_also_where_nobody_uses_it() -> None:
    """Else codes would follow other outputs here than where blocks really run freely."""
    run = small_stream(timing={"kind": "async", "slowdowns": [1, 5, 1]})
    trainer = make_trainer(fresh_model(run, DATA), DATA)
    for _ in trainer.train():
        pass
    assert isinstance(trainer, FreeTrainer)
    sent = run.epochs * len(DATA.train) * 4 * 8 * 8 * 4  # of all examples, 4 channels of 8×8 outputs, 4 bytes each
    assert trainer.results()["boundaries"][0]["bytes"] == sent
    used = {source for block, source in trainer.order.events.tolist() if block == 1}
    assert len(used) < run.epochs * trainer.batches / 2


def test_steps_can_be_cut_short() -> None:
    run = small_stream(timing={"kind": "async", "slowdowns": [1, 2, 1]}, max_steps=4)
    trainer = make_trainer(fresh_model(run, DATA), DATA)
    rows = [row for event in trainer.train() if isinstance(event, EpochDone) for row in event.rows]
    assert sorted((row.block, row.epoch) for row in rows) == [(block, epoch) for block in "123" for epoch in (1, 2)]
    assert all(0 <= row.accuracy <= 1 for row in rows)


CASES: dict[str, dict[str, Any]] = {
    "fast and slow": {"timing": {"kind": "async", "slowdowns": [1.0, 3.0, 1.5], "buffer": 2}},
    "at random": {"timing": {"kind": "async", "pace": "random"}, "augment": {"shift": 1}, "precision": "bf16-mixed"},
    "free, codes": {"timing": {"kind": "async", "slowdowns": [2.0, 1.0, 3.0], "buffer": 3}, "boundary": VQ},
    "free, int8": {"timing": {"kind": "async", "slowdowns": [1.0, 1.0, 2.0]}, "boundary": {"kind": "int8"}},
    "in step, codes": {"boundary": VQ, "microbatches": 2},
}


@cache
def undisturbed(case: str) -> Outcome:
    return train_through(small_stream(eval_every=1, **CASES[case]), DATA, [])


@pytest.mark.parametrize("case", CASES)
@given(data=st.data())
@settings(max_examples=5, deadline=None)
def test_stopping_anywhere(case: str, data: st.DataObject) -> None:
    run, expected = small_stream(eval_every=1, **CASES[case]), undisturbed(case)
    stops = data.draw(st.lists(st.integers(1, minibatches(run, DATA) - 1), min_size=1, max_size=3))
    with tempfile.TemporaryDirectory() as folder:
        outcome = train_through(run, DATA, stops, Path(folder))
    assert outcome.sha256 == expected.sha256
    assert outcome.rows == expected.rows
    assert outcome.curve == expected.curve


@pytest.mark.parametrize("case", ["fast and slow", "free, codes"])
def test_a_recorded_order_is_done_again_to_the_same_bits(case: str, tmp_path: Path) -> None:
    first = api.train(small_stream(**CASES[case]), data=DATA, out_dir=tmp_path / "first")
    timing = {"kind": "recorded", "order_file": str(tmp_path / "first" / "order.npy")}
    again = api.train(small_stream(**CASES[case] | {"timing": timing}), data=DATA, out_dir=tmp_path / "again")
    assert again.values["weights_sha256"] == first.values["weights_sha256"]
    assert again.values["boundaries"] == first.values["boundaries"]
    orders = [(tmp_path / name / "order.npy").read_bytes() for name in ("first", "again")]
    assert orders[0] == orders[1]


@given(seed=st.integers(0, 10**6))
@settings(max_examples=5, deadline=None)
def test_only_what_each_block_takes_matters_not_when(seed: int) -> None:
    """Events of different blocks change places at random, as if other clocks had told them: the same bits."""
    case = "free, codes"
    trainer = make_trainer(fresh_model(small_stream(**CASES[case]), DATA), DATA)
    assert isinstance(trainer, FreeTrainer)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "order.npy"
        np.save(path, shuffled(trainer.order.events.tolist(), trainer.order.blocks, seed))
        timing = {"kind": "recorded", "order_file": str(path)}
        outcome = train_through(small_stream(**CASES[case] | {"timing": timing}), DATA, [])
    assert outcome.sha256 == undisturbed(case).sha256


def shuffled(events: list[list[int]], blocks: int, seed: int) -> Any:
    """The same steps of each block in the same order, otherwise in any order that could have happened."""
    draw = np.random.default_rng(seed)
    left = [[source for block, source in events if block == each] for each in range(blocks)]
    made, order = [0] * blocks, []
    while any(left):
        ready = [b for b in range(blocks) if left[b] and (b == 0 or left[b][0] < made[b - 1])]
        block = int(draw.choice(ready))
        order.append((block, left[block].pop(0)))
        made[block] += 1
    return np.array(order, dtype=np.int32)


def test_the_run_folder_says_what_crossed_and_goes_on_only_with_its_order(tmp_path: Path) -> None:
    source = api.train(small_stream(**CASES["fast and slow"]), data=DATA, out_dir=tmp_path / "source")
    order = tmp_path / "order.npy"
    order.write_bytes((tmp_path / "source" / "order.npy").read_bytes())
    timing = {"kind": "recorded", "order_file": str(order)}
    api.train(small_stream(timing=timing, boundary=VQ, **FAST), data=DATA, out_dir=tmp_path / "run")
    values = json.loads((tmp_path / "run" / "result.json").read_text())
    assert values["timing"] == "recorded"
    assert [entry["block"] for entry in values["boundaries"]] == [1, 2]
    assert all(entry["bytes"] > 0 and entry["ratio"] > 2 and 0 < entry["error"] < 1 for entry in values["boundaries"])
    assert source.values["boundaries"][0]["ratio"] == 1.0
    np.save(order, np.load(order)[::-1])
    with pytest.raises(UsageError, match="is not the file that the run was started with"):
        api.resume(tmp_path / "run", data=DATA)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"timing": {"kind": "async"}, "reach": 2}, "run freely only where no gradient"),
        ({"timing": {"kind": "recorded", "order_file": "x"}, "reach": "all"}, "run freely only where no gradient"),
        ({"timing": {"kind": "async"}, "head": {"kind": "man"}}, "cannot run freely with a man head"),
        ({"boundary": VQ, "reach": 2}, "a gradient cannot go back"),
        ({"boundary": {"kind": "bf16"}, "reach": "all"}, "a gradient cannot go back"),
        ({"timing": {"kind": "async", "buffer": 0}}, "buffer"),
        ({"timing": {"kind": "async", "max_reuse": 0}}, "max_reuse|max-reuse"),
        ({"timing": {"kind": "async", "slowdowns": [1, 0, 1]}}, "every number should be greater than 0"),
        ({"timing": {"kind": "async", "slowdowns": [1, 2]}}, "2 number"),
        ({"timing": {"kind": "recorded", "order_file": "nowhere.npy"}}, "cannot read .*nowhere.npy"),
        ({"boundary": {"kind": "vq", "codes": 1}}, "codes"),
        ({"boundary": {"kind": "vq", "codes": 0}}, "codes"),
        ({"boundary": {"kind": "vq", "dims": 3}}, "4 channels are no groups of 3"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=why):
        api.train(small_stream(**settings), data=DATA, out_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
