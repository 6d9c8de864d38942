"""What a stream's rows cost on this machine: real stages, on made-up examples.

Problem: an assumed machine is not this one. Solution: every block does what its rows do, a few times: a forward, its
own loss, each loss's gradient through it, an update; the median counts. From gradients that only pass through a block
and those that train it, too, follow the costs of both; of backprop, where none only passes, that of the input is asked
for by itself. Coding at boundaries, and encoding what goes to another node, is part of the row, as in a run. Bytes come
from the formula, which knows them exactly.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from layerline.data.dataset import Dataset, Examples
from layerline.data.text import Text, Vocabulary
from layerline.data.text_set import AnySet, TextSet
from layerline.runtime.stream.feed import Feed
from layerline.runtime.stream.model import StreamModel
from layerline.runtime.stream.node import StreamNode
from layerline.runtime.stream.planning import costs_of
from layerline.runtime.stream.wire import packed_parcel
from layerline.schedules.costs import Machine
from layerline.schedules.stream import Stream
from layerline.schedules.stream_costs import StreamCosts
from layerline.transport.boundary import Parcel, overtaken
from layerline.transport.link import Outgoing
from layerline.transport.message import Key

T = TypeVar("T")

_WARM, _TIMED = 3, 12
_LONGEST = 2.0  # seconds for a block
_STEPS = 2  # minibatches of made-up examples


def measure_stream(model: StreamModel, stream: Stream | None) -> StreamCosts:
    """Costs of a microbatch on this machine, with the run's threads (else one: what a node of several on a host has).

    `stream`: who has which blocks, so what is encoded; None where PyTorch sends, which encodes nothing. The model
    is trained on what means nothing; it is for nothing else afterwards.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(model.run.threads or 1)
    try:
        return _Bench(model, stream).costs()
    finally:
        torch.set_num_threads(before)


@dataclass
class _Spent:
    """Seconds of each time that something was done."""

    forward: list[float] = field(default_factory=list)
    own_loss: list[float] = field(default_factory=list)
    through: dict[int, list[float]] = field(default_factory=dict)
    """By loss."""
    to_input: list[float] = field(default_factory=list)
    """Of a loss's gradient, where none passes without training the block."""
    update: list[float] = field(default_factory=list)


class _Bench:
    """A node with all blocks, and examples of the right shape."""

    def __init__(self, model: StreamModel, stream: Stream | None) -> None:
        model.train()
        self.model, self.reach = model, model.reach
        self.feed = Feed(model, _made_up(model))
        self.node = StreamNode(range(self.reach.blocks), model, self.feed)
        self.link = Outgoing(0, 1, model.run.codec)
        owned = stream.owned if stream else ()
        self.last_of = {blocks.stop - 1 for blocks in owned[:-1]}
        self.first_of = {blocks.start for blocks in owned[1:]}

    def costs(self) -> StreamCosts:
        """All of them."""
        taken, spent = None, []
        for block in range(self.reach.blocks):
            taken, found = self._block(block, taken)
            spent.append(found)
        to_input, to_weights = zip(*map(self._parted, range(len(spent)), spent), strict=True)
        return replace(
            costs_of(self.model, Machine()),
            forward=tuple(_median(each.forward) for each in spent),
            own_loss=tuple(_median(each.own_loss) for each in spent),
            to_input=to_input,
            to_weights=to_weights,
            update=tuple(_median(each.update) for each in spent),
        )

    def _block(self, block: int, taken: Parcel | None) -> tuple[Parcel, _Spent]:
        """A block's rows again and again, on what it takes; its outputs, with the codes that they are told in."""
        spent, begin = _Spent(through={loss: [] for loss in self.reach.at(block)}), time.perf_counter()
        left: Parcel = {}
        while True:
            step = len(spent.forward) % _STEPS
            sent = _timed(spent.forward, lambda step=step: self._forward(block, step, taken))  # type: ignore[misc]
            left = overtaken(left, sent)
            own = self._own_loss(block, step, spent) if self.reach.has_loss(block) else None
            for loss in self.reach.at(block):
                gradient = own if own is not None and loss == block else torch.randn_like(sent["outputs"])
                _timed(spent.through[loss], lambda g=gradient, at=loss: self._through(block, at, g))  # type: ignore[misc]
            if taken is not None and len(self.reach.at(block)) == 1 and self.reach.crossing(block):
                self._to_input(block, taken["outputs"], spent)
            _timed(spent.update, lambda step=step: self.node.update(block, step))  # type: ignore[misc]
            often, long = len(spent.forward), time.perf_counter() - begin
            if often >= _WARM + _TIMED or (often >= 2 and long > _LONGEST):
                return left, spent

    def _forward(self, block: int, step: int, taken: Parcel | None) -> Parcel:
        sent = self.node.forward(block, step, 0, taken)
        if block in self.last_of:
            self._encode(sent, "activations")
        return sent

    def _own_loss(self, block: int, step: int, spent: _Spent) -> Tensor:
        labels, share = self.feed.labels(step, 0), self.feed.share(step, 0)
        return _timed(spent.own_loss, lambda: self.node.stages[block].own_loss(0, labels, share))[0]

    def _through(self, block: int, loss: int, gradient: Tensor) -> None:
        below = self.node.stages[block].through(0, loss, gradient)
        if below is not None and block in self.first_of:
            self._encode({"gradient": below}, "gradients")

    def _to_input(self, block: int, x: Tensor, spent: _Spent) -> None:
        """A gradient's way to the input by itself, of a loss that trains the block as well."""
        leaf = x.detach().requires_grad_()
        with self.model.autocast(x.device), torch.enable_grad():
            h = self.model.blocks[block](leaf)
        gradient = torch.randn_like(h)
        _timed(spent.to_input, lambda: torch.autograd.grad(h, leaf, gradient, materialize_grads=True))

    def _encode(self, parcel: Parcel, carries: str) -> None:
        self.link.encode(Key(0, carries, 0, 0), packed_parcel(parcel))

    def _parted(self, block: int, spent: _Spent) -> tuple[float, float]:
        """Seconds of a gradient to the input, and to the weights."""
        teacher = self.reach.teacher(block)
        passing = [_median(spent.through[loss]) for loss in self.reach.at(block) if loss != teacher]
        to_input = statistics.mean(passing) if passing else _median(spent.to_input)
        both = teacher in self.reach.crossing(block)
        return to_input, max(0.0, _median(spent.through[teacher]) - to_input * both)


def _timed(spent: list[float], call: Callable[[], T]) -> T:
    begin = time.perf_counter()
    result = call()
    spent.append(time.perf_counter() - begin)
    return result


def _median(spent: list[float]) -> float:
    """Of those after the first few; 0 of none."""
    return statistics.median(spent[min(_WARM, len(spent) // 2) :]) if spent else 0.0


def _made_up(model: StreamModel) -> AnySet:
    """Examples for some minibatches, of the shape that the model reads."""
    run, shape, classes = model.run, model.encoder.shape, len(model.classes)
    count, draw = _STEPS * run.batch_size, torch.Generator().manual_seed(0)
    if run.reads_text:
        tokens = torch.randint(0, classes, ((count + 2) * shape[0],), generator=draw)
        vocabulary = Vocabulary("".join(chr(0x4E00 + each) for each in range(classes)))
        return TextSet(Text("made up", tokens, tokens[: 2 * shape[0]], vocabulary), shape[0], "made up")
    inputs, labels = torch.randint(0, 256, (count, *shape), generator=draw), torch.arange(count) % classes
    examples = Examples(inputs.to(torch.uint8) if model.encoder.images else inputs / 255, labels)
    return Dataset("made up", examples, None, tuple(map(str, range(classes))))
