"""The model of a stream: blocks one after the other, and heads on those whose loss trains a block."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from layerline.blocks.architecture import OwnLayers
from layerline.blocks.cost import layer_costs
from layerline.blocks.encoder import Encoder
from layerline.blocks.heads.ahead import MomentumHead
from layerline.blocks.heads.base import flat
from layerline.blocks.heads.heads import build_heads
from layerline.blocks.heads.text import SharedUnembedding
from layerline.blocks.layer import Unembedding
from layerline.blocks.network import predicting
from layerline.blocks.normaliser import NoNorm
from layerline.blocks.own import OwnNetwork
from layerline.blocks.tokens import TokenEncoder
from layerline.data.dataset import Examples
from layerline.data.text import require_inside
from layerline.data.text_set import AnySet, TextSet, Windows
from layerline.errors import DataError, UsageError
from layerline.runtime.model import PRECISIONS, refuse_other_examples
from layerline.runtime.seeding import generator
from layerline.runtime.stream.coding import Coding
from layerline.runtime.stream.network import layout_for, refuse_scores, stream_blocks
from layerline.runtime.stream.readout import BlockReadout, together
from layerline.runtime.training import Predictor
from layerline.schedules.reach import Reach
from layerline.stream_run import StreamRun
from layerline.transport.boundary import Plain

_ROWS, _CPU_ROWS = 512, 64
"""Examples of a forward pass outside the training step; on CPUs so few that what goes from layer to layer stays in
caches, which takes 15 to 44 % less time than 512 (two networks, two precisions)."""


class StreamModel(Predictor):
    """Classifies raw examples [B, *shape]. `heads` has those blocks that have a loss, except the last, whose outputs
    are scores; `layout` is how images and the weights for them lie."""

    run: StreamRun

    def __init__(
        self,
        run: StreamRun,
        encoder: Encoder | TokenEncoder,
        classes: tuple[str, ...],
        own: OwnNetwork | None = None,
    ) -> None:
        super().__init__()
        self.run, self.encoder, self.classes = run, encoder, classes
        sample = torch.zeros(2, *encoder.input_shape, dtype=encoder.dtype)
        blocks = stream_blocks(run, encoder.shape, len(classes), own, sample)
        self.reach = Reach(len(blocks), run.reached(len(blocks)))
        self.blocks = nn.ModuleList(blocks)
        refuse_scores(run, self.output_shapes[-1], len(classes))
        heads = build_heads(run.head, blocks, encoder.input_shape, len(classes), encoder.dtype, self.reach.losses)
        self.heads = nn.ModuleDict({str(index): head for index, head in heads.items()})
        self.layout = layout_for(run, blocks, sample)
        coded = [] if isinstance(run.boundary, Plain) else self.output_shapes[:-1]
        self.codings = nn.ModuleDict(
            {
                str(index): Coding(run.boundary, shape, PRECISIONS[run.precision], self.layout)
                for index, shape in enumerate(coded)
            }
        )
        if self.layout == torch.channels_last:
            for module in [*blocks, *self.heads.values()]:
                module.to(memory_format=self.layout)  # type: ignore[call-overload]

    @cached_property
    def output_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of each block, one example's."""
        # Ahead of any thread: the counter behind it disturbs what others compute gradients of meanwhile.
        costs = layer_costs(list(self.blocks), self.encoder.input_shape, self.encoder.dtype)
        return tuple(cost.output_shape for cost in costs)

    def head(self, block: int) -> nn.Module | None:
        """The head on a block, if there is one."""
        return dict(self.heads.items()).get(str(block))

    def coding(self, block: int) -> Coding | None:
        """What crossing to the next block makes of a block's outputs; None where they cross as they are."""
        return dict(self.codings.items()).get(str(block))  # type: ignore[return-value]

    @property
    def device(self) -> torch.device:
        """Where the blocks are that are here."""
        return next((p.device for p in self.parameters() if not p.is_meta), torch.device("cpu"))

    def hold_only(self, blocks: Collection[int]) -> None:
        """Let go of the numbers of all other blocks, and of their heads and codes: shapes stay (device "meta")."""
        for index in set(range(len(self.blocks))) - set(blocks):
            for module in self.parts(index).values():
                module.to("meta")

    def hold(self, block: int) -> None:
        """Make room for the numbers of a block, its head and its codes, where there is none; it holds rubbish."""
        for module in self.parts(block).values():
            if any(tensor.is_meta for tensor in module.state_dict().values()):
                module.to_empty(device=self.device)

    def parts(self, block: int) -> dict[str, nn.Module]:
        """What is trained with a block, by name: itself, its head, and the codes that its outputs cross as."""
        every = {"block": self.blocks[block], "head": self.head(block), "coding": self.coding(block)}
        return {name: module for name, module in every.items() if module is not None}

    @property
    def follows(self) -> tuple[tuple[int, int], ...]:
        """Blocks whose head is made of a later block's weights, each with that block."""
        last = len(self.blocks) - 1
        heads = [(int(block), head) for block, head in self.heads.items()]
        return tuple(
            (block, block + 1 if isinstance(head, MomentumHead) else last)
            for block, head in heads
            if isinstance(head, MomentumHead | SharedUnembedding)
        )

    def watched(self, block: int) -> list[Tensor]:
        """The weights that the head on a block follows, as they are now."""
        later = flat(list(self.blocks[block + 1 :]))
        if isinstance(self.head(block), MomentumHead):
            return [weight.detach() for weight in later[0].parameters()]
        assert isinstance(later[-1], Unembedding)
        return [later[-1].linear.weight.detach()]

    def follow_one(self, block: int, weights: Sequence[Tensor]) -> None:
        """The head on a block takes a step after the weights that it follows."""
        head = self.head(block)
        assert isinstance(head, MomentumHead | SharedUnembedding)
        head.follow(weights)

    def follow(self) -> None:
        """Heads that are made of later layers take a step after them; to be called after every update."""
        for block, _ in self.follows:
            self.follow_one(block, self.watched(block))

    def share(self, here: Collection[int] | None = None) -> None:
        """Heads that use a later layer's weights as they are use those of now: after a move, or after loading.

        `here`: the blocks that were loaded, if not all; what is only half among them stays as it is.
        """
        there = range(len(self.blocks)) if here is None else here
        for block, followed in self.follows:
            if isinstance(self.head(block), SharedUnembedding) and block in there and followed in there:
                self.follow_one(block, self.watched(block))

    def encoded(self, raw: Tensor) -> Tensor:
        """What the first block sees of raw examples."""
        x = self.encoder.plain(raw)
        return x.contiguous(memory_format=self.layout) if x.ndim == 4 else x

    def given(self, x: Tensor) -> Tensor:
        """What a block computes with of what has come to it. Own modules may work in place, so they get a copy, which
        lies in the same way wherever it has come from."""
        if not isinstance(self.run.network, OwnLayers):
            return x
        return x.clone(memory_format=self.layout if x.ndim == 4 else torch.contiguous_format)

    def available_readouts(self) -> list[BlockReadout]:
        last = len(self.blocks) - 1
        before = sorted(map(int, self.heads))
        others = [BlockReadout((block,), f"block-{block + 1}") for block in reversed(before)]
        every = [BlockReadout((*before, last), "all-heads")] if before else []
        return [BlockReadout((last,), "last"), *every, *others]

    def chunk_rows(self, readout: Any = None) -> int:
        return _CPU_ROWS if self.device.type == "cpu" else _ROWS

    def scores(self, raw: Tensor, readout: BlockReadout | None = None) -> Tensor:
        """Scores per class, float32 [B, C] (of tokens [B, T, C]) on the model's device, computed in chunks."""
        raw = torch.as_tensor(raw)
        if isinstance(self.encoder, Encoder):
            refuse_other_examples(self.encoder, raw)
        else:
            _refuse_other_tokens(self, raw)
        readout, device = readout or self.available_readouts()[0], self.device
        with predicting(self), torch.inference_mode(), self.autocast(device):
            parts = raw.split(self.chunk_rows())
            return torch.cat([self._by_readout(part.to(device), [readout])[0] for part in parts])

    forward = scores

    def accuracies(self, examples: Examples | Windows, heed: Callable[[], None] = lambda: None) -> dict[str, float]:
        readouts = self.available_readouts()
        right = dict.fromkeys(self.readout_names, 0)
        for labels, by_readout in self._judged(examples, readouts, heed):
            for readout, scores in zip(readouts, by_readout, strict=True):
                right[readout.kind] += int((scores.argmax(-1) == labels).sum())
        return {kind: count / examples.labels.numel() for kind, count in right.items()}

    def bits(
        self,
        examples: Windows,
        readouts: Sequence[BlockReadout] | None = None,
        heed: Callable[[], None] = lambda: None,
    ) -> dict[str, float]:
        """Bits that a character of these windows takes by each of the readouts (None: all), on average: cross-entropy
        to the base 2. `heed` is called between parts, and may raise."""
        readouts = self.available_readouts() if readouts is None else readouts
        totals = dict.fromkeys((readout.kind for readout in readouts), 0.0)
        for labels, by_readout in self._judged(examples, readouts, heed):
            for readout, scores in zip(readouts, by_readout, strict=True):
                loss = functional.cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="sum")
                totals[readout.kind] += loss.item()
        return {kind: total / examples.characters / math.log(2) for kind, total in totals.items()}

    def _judged(
        self, examples: Examples | Windows, readouts: Sequence[BlockReadout], heed: Callable[[], None]
    ) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Part by part the labels, and the scores by each readout: one pass through the blocks for all."""
        if isinstance(self.encoder, Encoder):
            refuse_other_examples(self.encoder, examples.inputs)
        rows, device = self.chunk_rows(), self.device
        for inputs, labels in zip(examples.inputs.split(rows), examples.labels.split(rows), strict=True):
            heed()
            with predicting(self), torch.inference_mode(), self.autocast(device):
                by_readout = self._by_readout(inputs.to(device), readouts)
            yield labels.to(device), by_readout

    def trained_tensors(self) -> dict[str, Tensor]:
        """Of each block, its head, and the codes that its outputs cross as."""
        return {
            f"{part}s.{index}.{name}": tensor
            for index in range(len(self.blocks))
            for part, module in self.parts(index).items()
            for name, tensor in module.state_dict().items()
        }

    def _by_readout(self, raw: Tensor, readouts: Sequence[BlockReadout]) -> list[Tensor]:
        """The scores by each readout, float32 [B, C] (of tokens [B, T, C])."""
        wanted = {block for readout in readouts for block in readout.blocks}
        x, found = self.encoded(raw), {}
        for index, module in enumerate(self.blocks[: max(wanted) + 1]):
            x = module(self.given(x))
            if index in wanted:
                head = self.head(index)
                scores: Tensor = x if head is None else head(x)
                found[index] = scores.float()
            coding = self.coding(index)
            if coding is not None and index < max(wanted):
                x = coding(x)
        return [together([found[block] for block in readout.blocks]) for readout in readouts]

    def autocast(self, device: torch.device) -> torch.autocast:
        """The run's precision for forward passes of any module."""
        dtype = PRECISIONS[self.run.precision]
        return torch.autocast(device.type, torch.bfloat16, enabled=dtype != torch.float32)


def _refuse_other_tokens(model: StreamModel, raw: Tensor) -> None:
    """DataError if these are not rows of tokens of the model's vocabulary."""
    if raw.ndim != 2:
        raise DataError(
            f"tokens have the shape [B, T], a row a text, not {list(raw.shape)}", hint="one text: tokens[None]"
        )
    require_inside(raw, len(model.classes), "the tokens")


def refuse_single_examples(model: StreamModel, data: AnySet) -> None:
    """UsageError where a minibatch, or a part of one, would be a single example, which batch norm cannot learn from."""
    run, count = model.run, data.windows if isinstance(data, TextSet) else len(data.train)
    sizes = {min(run.batch_size, count), count % run.batch_size or run.batch_size}
    smallest = min(len(part) for size in sizes for part in torch.empty(size).chunk(run.parts))
    if smallest > 1 or not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        return
    what = "microbatch" if run.parts > 1 else "minibatch"
    raise UsageError(
        f"of {count:,} examples in minibatches of {run.batch_size} a {what} would be one example, "
        "which batch norm cannot learn from",
        hint="choose another --batch-size" + (", or fewer --microbatches" if run.parts > 1 else ""),
    )


def build_stream_model(run: StreamRun, data: AnySet, own: OwnNetwork | None = None) -> StreamModel:
    """A model for this data: weights drawn from the run's seed, statistics taken from the training set. `own`: layers
    that were handed in, used and trained in place; their heads are drawn from the seed."""
    if own is not None and isinstance(data, TextSet):
        raise UsageError(
            "modules of your own learn from labelled examples, and this is a text",
            hint="leave out network=, and choose the network transformer",
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(generator(run.seed, "weights").initial_seed())
        return StreamModel(run, _encoder(run, data), data.classes, own)


def _encoder(run: StreamRun, data: AnySet) -> Encoder | TokenEncoder:
    if isinstance(data, TextSet):
        return TokenEncoder(data.context, data.num_classes)
    mean, std = data.statistics(run.standardise)
    return _of_examples(data.is_image, data.shape, data.num_classes, mean, std)


def encoder_of(run: StreamRun, shape: tuple[int, ...], classes: int) -> Encoder | TokenEncoder:
    """What makes inputs of examples [*shape], of a text of windows (T,), whose statistics nobody has looked at."""
    if run.reads_text:
        return TokenEncoder(shape[0], classes)
    return _of_examples(len(shape) == 3, shape, classes, (0.0,), (1.0,))


def _of_examples(
    images: bool, shape: tuple[int, ...], classes: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> Encoder:
    return Encoder(
        images=images,
        shape=shape,
        classes=classes,
        mean=mean,
        std=std,
        normaliser=NoNorm(),
        labels=None,
        flat=False,
        dtype=torch.float32,
    )
