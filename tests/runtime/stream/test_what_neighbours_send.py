"""What a neighbour sent is outputs, a gradient, weights or a mark of this network, or refused by name.

Before, a parcel with other names ended in a KeyError, and a head followed a weight of one number in all its places.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from layerline.data.digits import load_digits
from layerline.errors import MessageRefused
from layerline.runtime.fitting import reading
from layerline.runtime.stream.feed import Feed
from layerline.runtime.stream.free import LABELS
from layerline.runtime.stream.free_node import ORIGIN, FreeNode, FreeStep
from layerline.runtime.stream.landing import Landing
from layerline.runtime.stream.model import build_stream_model
from layerline.runtime.stream.node import GRADIENT, StreamNode
from layerline.stream_run import StreamRun
from layerline.transport.boundary import Parcel
from layerline.transport.message import Key
from runtime.stream.test_stream_nodes import MAN, run_of

KINDS: dict[str, dict[str, Any]] = {
    "plain": {"kind": "plain"},
    "bf16": {"kind": "bf16"},
    "int8": {"kind": "int8"},
    "vq": {"kind": "vq", "dims": 2, "codes": 4},
}


def nodes_of(run: StreamRun) -> tuple[StreamNode, StreamNode]:
    """Blocks 1 and 2; block 3 and what may follow. Each with a network of its own."""
    data, made = load_digits(), []
    for below in (True, False):
        model = build_stream_model(run, data)
        blocks = range(2) if below else range(2, len(model.blocks))
        made.append(StreamNode(blocks, model, Feed(model, data)))
    return made[0], made[1]


def sent(below: StreamNode) -> Parcel:
    return below.forward(1, 0, 0, below.forward(0, 0, 0, None))


@pytest.mark.parametrize("kind", KINDS)
def test_outputs(kind: str) -> None:
    """Each tensor of a parcel left out, and the examples of another minibatch."""
    run = run_of(boundary=KINDS[kind])
    parcel = sent(nodes_of(run)[0])
    for missing in parcel:
        with pytest.raises(MessageRefused, match=r"^what block 2 put out was refused: "):
            nodes_of(run)[1].forward(2, 0, 0, {name: t for name, t in parcel.items() if name != missing})
    fewer = nodes_of(run_of(boundary=KINDS[kind], batch_size=run.batch_size // 2))[0]
    with pytest.raises(MessageRefused, match=r"^what block 2 put out was refused: 'outputs' is \d+ × .*, wanted is"):
        nodes_of(run)[1].forward(2, 0, 0, sent(fewer))
    assert nodes_of(run)[1].forward(2, 0, 0, parcel)["outputs"].shape[0] == run.batch_size


@pytest.mark.parametrize(
    "damage",
    [
        {"indices": lambda t: t[:-3]},
        {"indices": lambda t: t[:-1]},
        {"indices": lambda t: torch.cat((t, t[:1]))},
        {"indices": lambda t: t.bool()},
        {"version": lambda t: t + 1, "codes": None},
        {"version": lambda t: torch.stack((t, t))},
        {"shape": lambda t: t[:-1]},
        {"shape": lambda t: -t},
        {"codes": lambda t: t[:, :1]},
        {"codes": lambda t: t[0]},
        {"codes": lambda t: t[:1]},
        {"codes": lambda t: t[:, :, :0]},
        {"shape": lambda t: t[0]},
        {"shape": lambda t: t.float()},
        {"version": lambda t: t * torch.inf},
    ],
    ids=[
        "too few",
        "one byte too few",
        "one byte too many",
        "no bytes",
        "another version",
        "two versions",
        "no image",
        "less than nothing",
        "too few codes",
        "no groups",
        "one group, which would be spread over all",
        "codes of no channels",
        "one number",
        "half pixels",
        "no number",
    ],
)
def test_codes(damage: dict[str, Callable[[Tensor], Tensor] | None]) -> None:
    run = run_of(boundary=KINDS["vq"])
    below, above = nodes_of(run)
    parcel: Parcel = sent(below)
    for name, change in damage.items():
        tensor = parcel.pop(name)
        if change is not None:
            parcel[name] = change(tensor)
    with pytest.raises(MessageRefused, match=r"^what block 2 put out was refused: "):
        above.forward(2, 0, 0, parcel)


def test_numbers() -> None:
    """What broadcasting would have spread, and numbers of another kind."""
    below, above = nodes_of(run_of(boundary=KINDS["int8"]))
    parcel = sent(below)
    for step in (parcel["step"][:1], parcel["step"].sum()):
        with pytest.raises(MessageRefused, match=r"of 200 examples the steps have the shape \["):
            above.forward(2, 0, 0, parcel | {"step": step})
    below, above = nodes_of(run_of())
    for dtype in (torch.float64, torch.int64):
        with pytest.raises(MessageRefused, match=rf"^what block 2 put out was refused: its numbers are {dtype}"):
            above.forward(2, 0, 0, {"outputs": sent(below)["outputs"].to(dtype)})


def test_no_memory_is_nobody_elses_message() -> None:
    with pytest.raises(torch.OutOfMemoryError), reading("it"):
        raise torch.OutOfMemoryError("there is none left")


def test_gradients() -> None:
    below, _ = nodes_of(run_of(reach="all"))
    outputs = sent(below)["outputs"]
    for wrong, why in (
        ({"outputs": outputs}, "there is no 'gradient' in it"),
        ({GRADIENT: outputs[:1]}, r"'gradient' is 1 × "),
        ({GRADIENT: torch.zeros(())}, "'gradient' is one number"),
    ):
        with pytest.raises(MessageRefused, match=rf"^the gradient of what block 2 put out was refused: {why}"):
            below.backward(1, 2, 0, 0, wrong)
    assert below.backward(1, 2, 0, 0, {GRADIENT: torch.zeros_like(outputs)}) is not None


def test_weights_that_heads_follow() -> None:
    below, above = nodes_of(run_of(**MAN))
    weights = above.watched(2)
    for wrong in (dict(list(weights.items())[1:]), weights | {"0": torch.zeros(())}):
        with pytest.raises(MessageRefused, match=r"^what came as weights of block 3 was refused: "):
            below.follow(2, wrong)
    below.follow(2, weights)


def free_node(kind: str) -> FreeNode:
    data = load_digits()
    model = build_stream_model(run_of(timing={"kind": "async"}, boundary=KINDS[kind]), data)
    return FreeNode([2], model, Feed(model, data), 1, None)


def take(node: FreeNode, parcel: Parcel) -> FreeStep | None:
    node.put(2, 0, parcel)
    return node.work(2)


@pytest.mark.parametrize("kind", KINDS)
def test_minibatches_of_blocks_that_run_freely(kind: str) -> None:
    below = nodes_of(run_of(boundary=KINDS[kind]))[0]
    labels, origin = below.feed.labels(0, 0), torch.tensor(7)
    parcel = sent(below) | {ORIGIN: origin}
    for missing in parcel:
        rest = {name: t for name, t in parcel.items() if name != missing} | {LABELS: labels}
        with pytest.raises(MessageRefused, match=r"^what block 2 put out was refused: "):
            take(free_node(kind), rest)
    with pytest.raises(MessageRefused, match=r"^what block 2 put out was refused: 'outputs' is"):
        take(free_node(kind), parcel | {LABELS: labels[:-1]})
    for wrong in (labels + 100, labels - 100, labels.float(), labels[:, None], labels[0], labels[:0]):
        with pytest.raises(MessageRefused, match=r"^what block 2 put out was refused: .*labels"):
            take(free_node(kind), parcel | {LABELS: wrong})
    for wrong in (origin + 10**6, origin - 8, origin[None], origin.float(), origin * torch.nan):
        with pytest.raises(MessageRefused, match=r"^what block 2 put out was refused: (the data has no|'origin' is)"):
            take(free_node(kind), parcel | {LABELS: labels, ORIGIN: wrong})
    assert take(free_node(kind), parcel | {LABELS: labels}) is not None


def test_what_lands() -> None:
    landing = Landing(2, lambda: None)
    with pytest.raises(MessageRefused, match=r"^a minibatch was refused: there is no 'labels' in it"):
        landing.put(Key(0, "parcel", 0, 0), {"outputs 1": torch.zeros(3)})
    for wrong in ({}, {"mark": torch.zeros(2)}):
        with pytest.raises(MessageRefused, match=r"^a mark was refused: "):
            landing.put_mark(Key(0, "mark", 0, 0), wrong)
    assert landing.take() == ([], None)
