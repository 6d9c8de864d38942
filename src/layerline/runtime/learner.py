"""A learner: one block with its objective and its optimizer, learning from a local loss.

Problem: a local step of Linear + ReLU is two matrix products (forward, weight gradient) and one pass of the optimizer;
everything else should vanish beside them. Solution, per minibatch of R rows (numbers repeated in the code):

1. z = x Wᵀ + b, h = relu(z)          bf16 products on a compute copy of the float32 master weights
2. norms of the rows of h             float32; they give the goodness and the next block's normaliser at once
3. dL/dz                              the objective's closed form, no autograd
4. G = dzᵀ x                          into a buffer that is reused
5. G to float32, Adam, weights cast   one thread: by chunks of rows, still in the cache when they are read again

Views that share their image (`LabelledViews`) multiply it once in 1 and once in 4. Any other module goes through
autograd (`AutogradLearner`), to the same result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Generator, Tensor, nn

from layerline.blocks.head import LinearHead, cross_entropy_slope
from layerline.blocks.linear import LinearReLU
from layerline.blocks.network import apply, predicting
from layerline.blocks.normaliser import row_norms
from layerline.data.labels import LabelledViews
from layerline.errors import UsageError
from layerline.objectives.base import BaseObjective
from layerline.objectives.optimizer import FADING, Adam
from layerline.runtime.seeding import drawing

BlockInput = Tensor | LabelledViews

_CHUNK = (
    1 << 19
)  # weights updated at a time by one thread: smaller, and calls take over; larger, and it leaves the cache


class Learner(ABC):
    """Learns one block; `block` and `state` (the objective's part) are updated in place."""

    def __init__(self, block: nn.Module, state: nn.Module, objective: BaseObjective, adam: Adam, units: int) -> None:
        self.block, self.state, self.objective, self.adam = block, state, objective, adam
        self.units = units  # outputs per row
        self.parameters: list[Tensor] = [p for m in (block, state) for p in m.parameters() if p.requires_grad]
        self.moments = adam.init(self.parameters)

    def begin_epoch(self, generator: Generator) -> None:
        """Draw what the objective needs for an epoch."""
        self.objective.begin_epoch(self.state, self.units, generator)

    @torch.no_grad()
    def learn(self, x: BlockInput, labels_B: Tensor, lr: float, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        """One minibatch: forward, local gradient, update.

        Returns the outputs before the update h [R, …] (valid until the next call), their row norms [R] and the
        objective's record. `batch` is the minibatch's number in the epoch.
        """
        if batch % FADING == 0:
            self.moments.drop_faded()
        return self._learn(x, labels_B, lr, batch)

    @abstractmethod
    def _learn(self, x: BlockInput, labels_B: Tensor, lr: float, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        """What `learn` says."""

    @abstractmethod
    def forward(self, x: BlockInput) -> Tensor:
        """The block's outputs, nothing learned; valid until the next call."""

    @abstractmethod
    def refresh(self) -> None:
        """Take over parameters that were changed from outside (a checkpoint, another node)."""

    def tensors(self) -> dict[str, Tensor]:
        """Everything a checkpoint needs of this learner, by name."""
        named = {f"block.{k}": v for k, v in self.block.state_dict().items()}
        named |= {f"state.{k}": v for k, v in self.state.state_dict().items()}
        return named | {f"optimizer.{k}": v for k, v in self.moments.tensors().items()}


class LinearLearner(Learner):
    """The closed form for Linear + ReLU."""

    block: LinearReLU

    def __init__(
        self, block: LinearReLU, state: nn.Module, objective: BaseObjective, adam: Adam, dtype: torch.dtype
    ) -> None:
        super().__init__(block, state, objective, adam, block.weight.shape[0])
        weight, bias = block.weight.detach(), block.bias.detach()
        self.parameters = [p.detach() for p in self.parameters]
        self._full = dtype == weight.dtype
        self._weight = weight if self._full else weight.to(dtype)
        self._bias = bias if self._full else bias.to(dtype)
        self._product = torch.empty_like(self._weight)
        # In float32 nothing is cast, so nothing is read twice; several threads and GPUs lose more on starting a chunk.
        in_one = self._full or weight.is_cuda or torch.get_num_threads() > 1
        chunks = 1 if in_one else -(-weight.numel() // _CHUNK)
        self._chunks = list(
            zip(
                self.moments.rows(0, chunks),
                *(whole.chunk(chunks) for whole in (weight, self._weight, self._product)),
                strict=True,
            )
        )
        self._gradient = self._product if self._full else torch.empty_like(self._chunks[0][1])
        self._other_moments = self.moments.after(0)
        self._buffers: dict[int, tuple[Tensor, Tensor]] = {}

    def _learn(self, x: BlockInput, labels_B: Tensor, lr: float, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        rows = x.shape[0] if isinstance(x, Tensor) else x.label_RC.shape[0]
        h_RN, dz_RN = self._rows(rows)
        self._forward(x, h_RN)  # 1
        norms_R = row_norms(h_RN)  # 2
        record, state_gradients = self.objective.relu_gradient(h_RN, norms_R, labels_B, self.state, batch, dz_RN)  # 3
        self._weight_gradient(x, dz_RN)  # 4
        self._update([dz_RN.sum(0).to(self._gradient.dtype), *state_gradients], lr)  # 5
        return h_RN, norms_R, record

    @torch.no_grad()
    def forward(self, x: BlockInput) -> Tensor:
        h_RN, _ = self._rows(x.shape[0] if isinstance(x, Tensor) else x.label_RC.shape[0])
        self._forward(x, h_RN)
        return h_RN

    def refresh(self) -> None:
        if not self._full:
            self._weight.copy_(self.block.weight.detach())
            self._bias.copy_(self.block.bias.detach())

    def _rows(self, rows: int) -> tuple[Tensor, Tensor]:
        if rows not in self._buffers:
            empty = torch.empty(rows, self.units, dtype=self._weight.dtype, device=self._weight.device)
            self._buffers[rows] = empty, torch.empty_like(empty)
        return self._buffers[rows]

    def _forward(self, x: BlockInput, h_RN: Tensor) -> None:
        if isinstance(x, Tensor):
            torch.addmm(self._bias, x, self._weight.t(), out=h_RN)
        else:
            image_BN = torch.addmm(self._bias, x.image_BF, self._weight.t())
            torch.mm(x.label_RC, self._weight[:, x.columns].t(), out=h_RN)
            h_RN.view(x.views, *image_BN.shape).add_(image_BN)
        h_RN.relu_()

    def _weight_gradient(self, x: BlockInput, dz_RN: Tensor) -> None:
        if isinstance(x, Tensor):
            self._multiply(dz_RN, x)
        else:
            self._multiply(_over_views(dz_RN, x.views), x.image_BF)
            self._product[:, x.columns] = dz_RN.t() @ x.label_RC

    def _multiply(self, dz_RN: Tensor, x_RI: Tensor) -> None:
        """product = dzᵀ x, over the hardest rows only where the objective says so."""
        share = self.objective.hardest
        if share < 1:
            count = max(1, round(share * len(dz_RN)))
            hardest = row_norms(dz_RN).topk(count, sorted=False).indices
            dz_RN, x_RI = dz_RN[hardest], x_RI[hardest]
        torch.mm(dz_RN.t(), x_RI, out=self._product)

    def _update(self, other_gradients: list[Tensor], lr: float) -> None:
        """The weight by chunks, from `_product`; bias and state from their gradients."""
        self.adam.count(self.moments)
        for moments, weight, low, product in self._chunks:
            gradient = product
            if not self._full:
                gradient = self._gradient[: len(product)].copy_(product)
            self.adam.update(moments, [weight], [gradient], lr)
            if not self._full:
                low.copy_(weight)
        self.adam.update(self._other_moments, self.parameters[1:], other_gradients, lr)
        if not self._full:
            self._bias.copy_(self.block.bias.detach())


def _over_views(rows_RN: Tensor, views: int) -> Tensor:
    """The sum over the views of each image, [B, N]. Pairwise: a reduction over so short an axis is ten times slower."""
    first, *others = rows_RN.chunk(views)
    for other in others:
        first = first + other
    return first


class AutogradLearner(Learner):
    """Any module: one autograd graph, one block deep."""

    def __init__(
        self, block: nn.Module, state: nn.Module, objective: BaseObjective, adam: Adam, units: int, dtype: torch.dtype
    ) -> None:
        super().__init__(block, state, objective, adam, units)
        self._dtype = dtype
        self._seed = 0

    def begin_epoch(self, generator: Generator) -> None:
        super().begin_epoch(generator)
        self._seed = generator.initial_seed()

    def _learn(self, x: BlockInput, labels_B: Tensor, lr: float, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        # A module's own draws (dropout) are a function of the minibatch, too, so that a resumed run repeats them.
        with drawing(labels_B, self._seed + batch), torch.enable_grad(), self._autocast(labels_B):
            h = self._apply(x)
            loss, record = self.objective.local_loss(h, labels_B, self.state, batch)
        gradients = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        with torch.no_grad():
            # The fused kernel walks memory: a gradient laid out unlike its parameter would reach wrong elements.
            parameters = [p.detach() for p in self.parameters]
            laid_out = [
                g if g.stride() == p.stride() else torch.empty_like(p).copy_(g)
                for p, g in zip(parameters, gradients, strict=True)
            ]
            self.adam.step(self.moments, parameters, laid_out, lr)
        h = h.detach()
        return h, row_norms(h), record

    @torch.no_grad()
    def forward(self, x: BlockInput) -> Tensor:
        with predicting(self.block), self._autocast(x if isinstance(x, Tensor) else x.image_BF):
            return apply(self.block, x)

    def refresh(self) -> None:
        pass

    def _apply(self, x: BlockInput) -> Tensor:
        try:
            return apply(self.block, x)
        except ValueError as error:
            if isinstance(x, Tensor) and len(x) == 1:  # batch normalisation
                raise UsageError(
                    f"a block cannot learn from the last minibatch, which has one example: {error}",
                    hint="choose another batch size, or leave one example out",
                ) from error
            raise

    def _autocast(self, like: Tensor) -> torch.autocast:
        return torch.autocast(like.device.type, torch.bfloat16, enabled=self._dtype != torch.float32)


class HeadLearner:
    """The softmax readout's head, learning on activities that it does not touch."""

    def __init__(self, head: LinearHead, adam: Adam) -> None:
        self.head, self.adam = head, adam
        self.parameters: list[Tensor] = [p.detach() for p in head.parameters()]
        self.moments = adam.init(self.parameters)

    @torch.no_grad()
    def learn(self, x_BN: Tensor, labels_B: Tensor, lr: float) -> Tensor:
        """One minibatch; returns the logits before the update, float32 [B, C]."""
        logits_BC: Tensor = self.head(x_BN)
        gradients = self.head.gradients(x_BN, cross_entropy_slope(logits_BC, labels_B))
        self.adam.step(self.moments, self.parameters, gradients, lr)
        return logits_BC

    def tensors(self) -> dict[str, Tensor]:
        """Everything a checkpoint needs, by name."""
        named = {f"head.{k}": v for k, v in self.head.state_dict().items()}
        return named | {f"optimizer.{k}": v for k, v in self.moments.tensors().items()}


def make_learner(
    block: nn.Module, state: nn.Module, objective: BaseObjective, adam: Adam, units: int, dtype: torch.dtype
) -> Learner:
    """The fast learner where the block allows it, else the general one."""
    if isinstance(block, LinearReLU) and all(p.requires_grad for p in block.parameters()):
        return LinearLearner(block, state, objective, adam, dtype)
    if objective.hardest < 1:
        raise UsageError(
            f"the hardest rows can be chosen for Linear + ReLU blocks only, not for {type(block).__name__}",
            hint="leave out --hardest",
        )
    return AutogradLearner(block, state, objective, adam, units, dtype)
