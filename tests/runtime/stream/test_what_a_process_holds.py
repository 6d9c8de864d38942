"""A process of a stream holds its own blocks and their heads, and only the first one's the examples."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from layerline.data.digits import load_digits
from layerline.runtime.stream.feed import Feed
from layerline.runtime.stream.model import build_stream_model
from layerline.runtime.stream.node import StreamNode, fill
from layerline.runtime.stream.planning import costs_of
from layerline.schedules.costs import Machine
from runtime.members_by_hand import free_port
from runtime.stream.test_stream_nodes import alone, described, run_of


def watched(words: list[str], variables: dict[str, str], told: Path) -> None:
    """In a process of its own: the command line, and what is there when training begins."""
    os.environ.update(variables)
    os.dup2(os.open(told.with_suffix(".said"), os.O_WRONLY | os.O_CREAT), 2)
    os.dup2(os.open(told.with_suffix(".out"), os.O_WRONLY | os.O_CREAT), 1)
    from layerline.cli.main import main
    from layerline.stream_sitting import Alone

    begins = Alone._begin

    def looked(member: Any) -> None:
        gc.collect()
        tensors = [each for each in gc.get_objects() if isinstance(each, torch.Tensor) and not each.is_meta]
        pictures = [each.numel() for each in tensors if each.dtype == torch.uint8 and each.dim() > 1]  # no flat buffers
        found = {
            "names": [name for name, p in member.job.model.named_parameters() if not p.is_meta],
            "parameters": sum(each.numel() for each in tensors if isinstance(each, nn.Parameter)),
            "images": max(pictures, default=0),
        }
        told.write_text(json.dumps(found), encoding="utf-8")
        begins(member)

    Alone._begin = looked  # type: ignore[method-assign, assignment]
    sys.exit(main(words))


@pytest.mark.parametrize(
    ("settings", "processes", "owns"),
    [
        ({"reach": 1, "microbatches": 2}, 3, [{0}, {1}, {2}]),
        ({"reach": 2, "codec": {"kind": "bf16"}}, 2, [{0, 1}, {2}]),
        ({"reach": 1, "timing": {"kind": "async"}}, 3, [{0}, {1}, {2}]),
        ({"reach": "all", "method": "1f1b", "microbatches": 4}, 3, [{0}, {1}, {2}]),
    ],
)
def test_own_blocks_and_no_others(
    settings: dict[str, Any], processes: int, owns: list[set[int]], tmp_path: Path
) -> None:
    run, file = described(tmp_path, nodes=3, **settings)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["layerline.api", "layerline.cli.commands.train"])
    common = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    common |= {"TORCHELASTIC_RUN_ID": "holds", "TORCHELASTIC_USE_AGENT_STORE": "False", "LAYERLINE_JOIN": "60"}
    files = [tmp_path / f"{rank}.json" for rank in range(processes)]
    words = ["train", file, "--out-dir", str(tmp_path / "run"), "--format", "json"]
    started = [
        context.Process(target=watched, args=(words, common | {"RANK": str(rank)}, told))
        for rank, told in enumerate(files)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(90)
        if process.exitcode is None:
            process.kill()
    assert [process.exitcode for process in started] == [0] * processes, files[0].with_suffix(".said").read_text()
    data = load_digits()
    whole = build_stream_model(run, data)
    for rank, (told, blocks) in enumerate(zip(files, owns, strict=True)):
        found = json.loads(told.read_text(encoding="utf-8"))
        mine = {name: p for name, p in whole.named_parameters() if int(name.split(".")[1]) in blocks}
        assert set(found["names"]) == mine.keys() != set(dict(whole.named_parameters()))
        assert found["parameters"] == sum(p.numel() for p in mine.values()), "and nothing else keeps them"
        assert (found["images"] >= data.train.inputs.numel()) == (rank == 0)
    result = json.loads(files[0].with_suffix(".out").read_text(encoding="utf-8"))
    if not {"timing", "codec", "method"} & set(settings):
        expected = alone(run).values
        assert result["weights_sha256"] == expected["weights_sha256"]
        assert result["readouts"] == expected["readouts"], "rank 0 has everything again, and judges it"
    assert result["parameters"] == sum(p.numel() for p in whole.parameters())
    before = [f"block-{b + 1}" for b in reversed(whole.reach.losses[:-1])]
    assert list(result["readouts"]) == ["last", *(["all-heads"] if before else []), *before]


def test_a_block_that_comes_home_lies_as_it_did() -> None:
    """In memory, too: how weights lie decides which kernel judges them, and so the last bits."""
    run, data = run_of(), load_digits()
    whole, part = build_stream_model(run, data), build_stream_model(run, data)
    node = StreamNode([2], whole, Feed(whole, data))
    part.hold_only({0, 1})
    assert {name.split(".")[1] for name, p in part.named_parameters() if p.is_meta} == {"2"}
    fill(part, 2, node.finished(2))
    for (name, one), (_, other) in zip(whole.trained_tensors().items(), part.trained_tensors().items(), strict=True):
        assert torch.equal(one, other), name
        assert one.stride() == other.stride(), name


def test_labels_and_order_without_images() -> None:
    run, data = run_of(microbatches=2, augment={"shift": 1, "flip": True}), load_digits()
    model = build_stream_model(run, data)
    whole, thin = Feed(model, data), Feed(model, data.without_inputs())
    assert data.without_inputs().digest() == data.digest()
    assert (thin.steps, thin.batches) == (whole.steps, whole.batches)
    for step in (0, 7, 9):
        for part in range(2):
            assert torch.equal(thin.labels(step, part), whole.labels(step, part))
            assert torch.equal(thin.parts(step)[part], whole.parts(step)[part])


@pytest.mark.parametrize("optimizer", [{"kind": "sgd"}, {"kind": "adamw"}])
def test_moments_are_planned_as_they_are(optimizer: dict[str, Any]) -> None:
    """AdamW keeps two numbers a parameter; the plan once counted one, and 28 bytes of traffic for SGD's 20."""
    run, data = run_of(optimizer=optimizer), load_digits()
    model = build_stream_model(run, data)
    node, costs = StreamNode([0, 1, 2], model, Feed(model, data)), costs_of(model, Machine(memory=1.0))
    for block, stage in node.stages.items():
        moments = [tensor for tensor in stage.moments.tensors().values() if tensor.ndim]  # a step count is a scalar
        assert costs.moments[block] == sum(tensor.nbytes for tensor in moments)
        learns = nn.ModuleList(module for module in (stage.block, stage.head) if module is not None)
        weights = sum(parameter.nbytes for parameter in learns.parameters())
        assert costs.update[block] == 2 * (weights + costs.moments[block]) + weights
