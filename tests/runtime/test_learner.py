"""A learner's gradient is the gradient of its local loss: the closed form, autograd and a float64 reference agree.

With beta1 = 0 Adam's first moment after a step is the gradient itself, so no learner has to be opened to see it.
"""

from __future__ import annotations

import copy
import itertools
from typing import Any, Literal

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.nn import functional

from layerline.blocks.encoder import Encoder
from layerline.blocks.linear import LinearReLU
from layerline.blocks.network import apply
from layerline.blocks.normaliser import RmsNorm
from layerline.data.labels import LabelInput
from layerline.objectives.base import BaseObjective
from layerline.objectives.forward_forward import ForwardForward
from layerline.objectives.local_cross_entropy import LocalCrossEntropy
from layerline.objectives.losses import Logistic, Loss, SiluMargin, SymBa
from layerline.objectives.optimizer import Adam
from layerline.runtime.learner import AutogradLearner, BlockInput, Learner, LinearLearner, make_learner
from layerline.runtime.seeding import generator
from small_runs import largest_error

FEATURES, UNITS, CLASSES = 23, 17, 5
ADAM = Adam(lr=0.01, beta1=0.0)
LOSSES: list[Loss] = [Logistic(theta=0.7), SymBa(alpha=4.0), SiluMargin(beta=6.0)]


def linear_block(inputs: int = FEATURES) -> LinearReLU:
    torch.manual_seed(3)
    return LinearReLU(inputs, UNITS)


def state_of(objective: BaseObjective, units: int = UNITS) -> nn.Module:
    """The objective's part, with a head that is not all zero."""
    state = objective.init(units, CLASSES)
    draw = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in state.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw))
    return state


def encoder(position: Literal["first", "last", "append"], dtype: torch.dtype = torch.float32) -> Encoder:
    return Encoder(
        images=False,
        shape=(FEATURES,),
        classes=CLASSES,
        mean=(0.0,),
        std=(1.0,),
        normaliser=RmsNorm(),
        labels=LabelInput(strength=3.0, position=position),
        flat=True,
        dtype=dtype,
    )


def minibatch(images: int, views: int, how: str, dtype: torch.dtype = torch.float32) -> tuple[BlockInput, Tensor]:
    """Inputs of a first block, "plain" or with a label at a position, and the right labels."""
    draw = torch.Generator().manual_seed(images)
    labels_B = torch.randint(0, CLASSES, (images,), generator=draw)
    raw = torch.randn(images, FEATURES, generator=draw)
    if how == "plain":
        return torch.randn(views * images, FEATURES, generator=draw).to(dtype), labels_B
    assert how in ("first", "last", "append")
    wrong_B = (labels_B + 1) % CLASSES
    return encoder(how, dtype).labelled(raw, [labels_B, wrong_B][:views]), labels_B  # type: ignore[arg-type]


def full(x: BlockInput) -> Tensor:
    return x if isinstance(x, Tensor) else x.full()


def gradients(learner: Learner, x: BlockInput, labels_B: Tensor, batch: int = 0) -> list[Tensor]:
    learner.begin_epoch(generator(0, "test"))
    learner.learn(x, labels_B, 0.01, batch)
    return learner.moments.first


def learners(objective: BaseObjective, inputs: int, dtype: torch.dtype = torch.float32) -> tuple[Learner, Learner]:
    """The closed form and autograd, on equal blocks and states."""
    block, state = linear_block(inputs), state_of(objective)
    return (
        LinearLearner(copy.deepcopy(block), copy.deepcopy(state), objective, ADAM, dtype),
        AutogradLearner(copy.deepcopy(block), copy.deepcopy(state), objective, ADAM, UNITS, dtype),
    )


def exact_gradients(objective: Any, x: Tensor, labels_B: Tensor, mask: Tensor | None = None) -> list[Tensor]:
    """By autograd in float64, straight from the definitions; without peer normalisation."""
    block = linear_block(x.shape[1]).double()
    h = functional.relu(functional.linear(x.double(), block.weight, block.bias))
    parameters = list(block.parameters())
    if isinstance(objective, ForwardForward):
        squares = h.square()
        goodness = squares.mean(1) if objective.goodness == "mean" else squares.sum(1)
        loss = objective.loss.value(*goodness.chunk(2)).mean()
    else:
        head = state_of(objective).double()
        seen = h if mask is None else h * mask
        logits = functional.linear(seen, *head.parameters())
        loss = functional.cross_entropy(logits, labels_B)
        parameters += list(head.parameters())
    return list(torch.autograd.grad(loss, parameters))


@pytest.mark.parametrize("images", [16, 5, 1])
@pytest.mark.parametrize("how", ["plain", "first", "last", "append"])
@pytest.mark.parametrize(
    ("loss", "goodness"), list(itertools.product(LOSSES, ["mean", "sum"])), ids=lambda v: getattr(v, "kind", v)
)
def test_forward_forward(loss: Loss, goodness: Literal["mean", "sum"], how: str, images: int) -> None:
    objective = ForwardForward(loss=loss, goodness=goodness)
    x, labels_B = minibatch(images, 2, how)
    expected = exact_gradients(objective, full(x), labels_B)
    for learner in learners(objective, full(x).shape[1]):
        actual = gradients(learner, x, labels_B)
        assert len(actual) == 2
        for a, e in zip(actual, expected, strict=True):
            assert largest_error(a, e) < 3e-6


@pytest.mark.parametrize("images", [16, 5, 1])
@pytest.mark.parametrize("how", ["plain", "first"])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_local_cross_entropy(dropout: float, how: str, images: int) -> None:
    objective = LocalCrossEntropy(dropout=dropout)
    x, labels_B = minibatch(images, 1, how)
    closed, autograd = learners(objective, full(x).shape[1])
    first = gradients(closed, x, labels_B, batch=2)
    second = gradients(autograd, x, labels_B, batch=2)
    state: Any = closed.state
    mask = state.masks.take(2, images, UNITS).double() if dropout else None
    expected = exact_gradients(objective, full(x), labels_B, mask)
    assert len(expected) == 4
    for a, b, e in zip(first, second, expected, strict=True):
        assert largest_error(a, e) < 3e-6
        assert largest_error(b, e) < 3e-6
    if mask is not None:
        assert set(mask.unique().tolist()) <= {0.0, float(torch.tensor(1 / 0.6).bfloat16())}


@pytest.mark.parametrize("how", ["plain", "append"])
@pytest.mark.parametrize("goodness", ["mean", "sum"])
def test_peer_normalisation(goodness: Literal["mean", "sum"], how: str) -> None:
    """Hinton's term, per positive row 2/N·λ·(m_j − mean m), reaches dead units; autograd gates it by the ReLU."""
    objective = ForwardForward(loss=SymBa(), goodness=goodness, peer=0.03)
    x, labels_B = minibatch(16, 2, how)
    rows = full(x)
    closed, autograd = learners(objective, rows.shape[1])
    closed.block.bias.data[4] = autograd.block.bias.data[4] = -100.0  # type: ignore[operator]
    block: Any = copy.deepcopy(closed.block)
    without = ForwardForward(loss=SymBa(), goodness=goodness)
    plain = AutogradLearner(copy.deepcopy(block), without.init(UNITS, CLASSES), without, ADAM, UNITS, torch.float32)
    base = gradients(plain, x, labels_B)

    positive = block(rows).detach()[:16]
    m = 0.9 * torch.full((UNITS,), 0.5) + 0.1 * positive.mean(0)
    slope_N = 2 * (1 / UNITS if goodness == "mean" else 1.0) * 0.03 * (m - m.mean()) / 16
    ungated = slope_N.expand(16, UNITS)
    for learner, slope_BN in ((closed, ungated), (autograd, ungated * (positive > 0))):
        weight, bias = gradients(learner, x, labels_B)
        assert largest_error(weight, base[0] + slope_BN.t() @ rows[:16]) < 5e-6
        assert largest_error(bias, base[1] + slope_BN.sum(0)) < 5e-6
        state: Any = learner.state
        torch.testing.assert_close(state.mean_activity, m)
    dead = closed.moments.first[0][4]
    assert dead.abs().max() > 0, "a dead unit gets a gradient"
    assert m[4] < m.mean()
    assert closed.moments.first[1][4] < 0, "and it is pulled up"
    assert not autograd.moments.first[0][4].any()


@pytest.mark.parametrize("how", ["plain", "first", "append"])
@pytest.mark.parametrize(
    "objective", [ForwardForward(loss=SymBa(alpha=2.0)), LocalCrossEntropy(dropout=0.4)], ids=["ff", "ce"]
)
def test_bfloat16(objective: BaseObjective, how: str) -> None:
    """bf16 has 8 bits: every product is rounded to 2⁻⁹ of its size, so gradients are right to about a percent."""
    images = 64
    x, labels_B = minibatch(images, objective.views, how, torch.bfloat16)
    closed, autograd = learners(objective, full(x).shape[1], torch.bfloat16)
    both = [gradients(learner, x, labels_B) for learner in (closed, autograd)]
    state: Any = closed.state
    mask = state.masks.take(0, images, UNITS).double() if isinstance(objective, LocalCrossEntropy) else None
    expected = exact_gradients(objective, full(x).double(), labels_B, mask)
    for actual in both:
        for a, e in zip(actual, expected, strict=True):
            assert a.dtype == torch.float32
            assert float((a.double() - e).norm() / e.norm()) < 0.02
    for learner in (closed, autograd):
        assert {p.dtype for p in learner.block.parameters()} == {torch.float32}, "master weights stay float32"


def test_many_steps_stay_together() -> None:
    """Ten minibatches of both kinds, ragged ones among them: parameters part by rounding only."""
    objective = LocalCrossEntropy(dropout=0.2)
    block, state = linear_block(), state_of(objective)
    adam = Adam(lr=0.01)
    closed = LinearLearner(copy.deepcopy(block), copy.deepcopy(state), objective, adam, torch.float32)
    autograd = AutogradLearner(copy.deepcopy(block), copy.deepcopy(state), objective, adam, UNITS, torch.float32)
    for learner in (closed, autograd):
        learner.begin_epoch(generator(0, "epoch"))
        for batch in range(10):
            x, labels_B = minibatch([16, 16, 7][batch % 3], 1, "plain")
            h, norms_R, record = learner.learn(x, labels_B, 0.01, batch)
            assert h.shape == (len(labels_B), UNITS)
            assert record.shape == (len(labels_B), CLASSES)
            torch.testing.assert_close(norms_R, h.norm(dim=1))
    assert not torch.equal(closed.block.weight, block.weight)
    for a, b in zip(closed.parameters, autograd.parameters, strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-3, atol=2e-5)


def test_outputs_are_those_before_the_update() -> None:
    x, labels_B = minibatch(16, 2, "first")
    for learner in learners(ForwardForward(), FEATURES):
        before = apply(copy.deepcopy(learner.block), x)
        h, _, _ = learner.learn(x, labels_B, 0.05, 0)
        torch.testing.assert_close(h, before.detach())
        assert not torch.equal(apply(learner.block, x), before)
        torch.testing.assert_close(learner.forward(x), apply(learner.block, x).detach())


class Transposed(nn.Module):
    """Keeps its weight as [in, out], so that its gradient comes out of autograd transposed in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(UNITS, FEATURES, generator=torch.Generator().manual_seed(1)))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weight.t().contiguous()).relu()


def test_gradients_laid_out_otherwise_than_their_parameter() -> None:
    """The fused Adam kernel walks memory in order and moved the wrong elements of such a parameter."""
    objective = ForwardForward(loss=SymBa())
    x, labels_B = minibatch(16, 2, "plain")
    block = Transposed()
    parameter = block.weight.detach().clone().requires_grad_()
    goodness = (full(x) @ parameter.t()).relu().square().mean(1)
    loss = objective.loss.value(*goodness.chunk(2)).mean()
    torch.optim.Adam([parameter], lr=0.01, betas=(0.0, 0.999)).zero_grad()
    optimizer = torch.optim.Adam([parameter], lr=0.01, betas=(0.0, 0.999))
    loss.backward()
    optimizer.step()
    gradients(AutogradLearner(block, nn.Module(), objective, ADAM, UNITS, torch.float32), x, labels_B)
    torch.testing.assert_close(block.weight, parameter)


def test_frozen_and_shared_parameters() -> None:
    objective = LocalCrossEntropy()
    x, labels_B = minibatch(16, 1, "plain")
    frozen = linear_block()
    frozen.bias.requires_grad_(False)
    kept = frozen.bias.clone()
    learner = make_learner(frozen, state_of(objective), objective, ADAM, UNITS, torch.float32)
    expected = exact_gradients(objective, full(x), labels_B)
    actual = gradients(learner, x, labels_B)
    assert torch.equal(frozen.bias, kept)
    assert len(actual) == 3
    assert largest_error(actual[0], expected[0]) < 3e-6
    assert largest_error(actual[1], expected[2]) < 3e-6

    layer = nn.Linear(FEATURES, FEATURES)
    tied = nn.Sequential(layer, nn.ReLU(), layer)
    learner = make_learner(tied, state_of(objective, FEATURES), objective, ADAM, FEATURES, torch.float32)
    assert len(learner.parameters) == 4, "a shared parameter is one parameter"
    before = layer.weight.detach().clone()
    learner.learn(x, labels_B, 0.01, 0)
    assert not torch.equal(layer.weight, before)


def test_dropout_of_a_module_is_a_function_of_the_minibatch() -> None:
    objective = LocalCrossEntropy()
    x, labels_B = minibatch(16, 1, "plain")
    block = nn.Sequential(nn.Linear(FEATURES, UNITS), nn.ReLU(), nn.Dropout(0.5))
    outputs = []
    for disturb, batch in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(disturb)
        learner = AutogradLearner(copy.deepcopy(block), state_of(objective), objective, ADAM, UNITS, torch.float32)
        learner.begin_epoch(generator(0, "epoch"))
        outputs.append(learner.learn(x, labels_B, 0.01, batch)[0])
        after = torch.rand(1)
        torch.manual_seed(disturb)
        assert torch.equal(after, torch.rand(1)), "the global generator is left alone"
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[1], outputs[2])


def test_losses_by_kind() -> None:
    parsed: Any = TypeAdapter(Loss).validate_python({"kind": "symba", "alpha": 2})
    assert parsed == SymBa(alpha=2.0)


@pytest.mark.parametrize("share", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("how", ["plain", "first"])
@pytest.mark.parametrize("kind", ["ff", "ce"])
def test_hardest_rows(kind: str, how: str, share: float) -> None:
    """The weight gradient of the rows with the longest local gradient alone; the bias and the head see all rows.

    Views that share their image are one row, with the sum of their local gradients; the label's columns see all.
    """
    objective: BaseObjective = (
        ForwardForward(loss=SymBa(), hardest=share) if kind == "ff" else LocalCrossEntropy(hardest=share)
    )
    views = objective.views
    x, labels_B = minibatch(16, views, how)
    rows = full(x)
    block, state = linear_block(), state_of(objective)
    z = functional.linear(rows, block.weight, block.bias).detach().requires_grad_()
    loss, _ = objective.local_loss(z.relu(), labels_B, state, 0)
    (dz_RN,) = torch.autograd.grad(loss, z)
    learner = LinearLearner(block, state, objective, ADAM, torch.float32)
    weight, bias = gradients(learner, x, labels_B)[:2]
    assert largest_error(bias, dz_RN.sum(0)) < 3e-6

    image_dz, image_x = (dz_RN, rows) if how == "plain" else (dz_RN.view(views, 16, UNITS).sum(0), rows[:16])
    order = image_dz.norm(dim=1).argsort(descending=True)
    chosen = order[: max(1, round(share * len(order)))]
    expected = image_dz[chosen].t() @ image_x[chosen]
    if how == "first":
        expected[:, :CLASSES] = dz_RN.t() @ rows[:, :CLASSES]
    assert largest_error(weight, expected) < 5e-6


@pytest.mark.parametrize("inputs", [1008, 1001])
def test_a_large_weight_is_updated_in_chunks_as_if_in_one(inputs: int) -> None:
    """Adam goes over rows while they are in the cache. Nobody can tell from the weights, moments and counts it leaves.

    Rows that are no whole number of vectors long leave the kernel a rest at other places, which it rounds otherwise.
    """
    torch.manual_seed(0)
    block = LinearReLU(inputs, 1200)
    objective = ForwardForward(loss=SymBa())
    state = objective.init(1200, CLASSES)
    learner = LinearLearner(copy.deepcopy(block), state, objective, ADAM, torch.bfloat16)
    assert len(learner._chunks) == 3

    adam = ADAM
    whole = [p.detach().clone() for p in block.parameters()]
    moments = adam.init(whole)
    for step in range(3):
        x = torch.randn(16, inputs).bfloat16()
        h, norms_R, _ = learner.learn(x, torch.zeros(8, dtype=torch.int64), 0.01, step)
        dz = torch.empty_like(h)
        objective.relu_gradient(h, norms_R, torch.zeros(8), state, step, dz)
        adam.step(moments, whole, [torch.mm(dz.t(), x).float(), dz.sum(0).float()], 0.01)
        same = torch.equal if inputs % 16 == 0 else torch.allclose
        assert same(learner.block.weight.detach(), whole[0])
        assert torch.equal(learner.block.bias.detach(), whole[1])
        assert same(learner.moments.second[0], moments.second[0])
        assert torch.equal(
            learner.forward(x), LinearLearner(learner.block, state, objective, ADAM, torch.bfloat16).forward(x)
        )
    assert [int(s) for s in learner.moments.steps] == [3, 3], "however many chunks"


def test_no_moment_is_ever_denormal() -> None:
    """Units that fell silent left first moments to fade: at batch 64 seven in ten were denormal by the end of an epoch,
    and an update took twice as long."""
    objective = ForwardForward()
    learner = make_learner(linear_block(), state_of(objective), objective, Adam(), UNITS, torch.float32)
    x, labels_B = minibatch(8, 2, "first")
    learner.learn(x, labels_B, 0.01, 0)
    assert isinstance(learner, LinearLearner)
    with torch.no_grad():
        learner.block.bias.fill_(-1e6)  # nothing is active from here on
    smallest = torch.finfo(torch.float32).tiny
    faded = 0
    for batch in range(1, 1100):
        learner.learn(x, labels_B, 0.0, batch)
        size = learner.moments.first[0].abs()
        assert not ((size > 0) & (size < smallest)).any(), batch
        faded += int((size == 0).all())
    assert faded
