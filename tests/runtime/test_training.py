"""Both training orders, against a straightforward second implementation, and on data they should learn.

The second implementation stores nothing between blocks, uses autograd and torch.optim, and computes every input anew.
Draws (order, negatives) come from the same named generators; that a policy draws well is tested with the policies.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from layerline.data.dataset import Dataset
from layerline.errors import LayerlineError
from layerline.events import EpochDone
from layerline.run import Run
from layerline.runtime.execute import make_trainer
from layerline.runtime.model import Model, build_model
from layerline.runtime.seeding import generator
from layerline.runtime.trainer import Trainer
from small_runs import LOCAL, UNSUPERVISED, small_data, small_run, train_through

DATA = small_data(count=41, classes=4)
STRENGTH = 3.0


class ByHand:
    """Forward-Forward: SymBa (α = 4, mean goodness), RMS normaliser, Adam, cool-down, a softmax head from block 2."""

    def __init__(self, model: Model, run: Run, data: Dataset) -> None:
        self.run, self.data = run, data
        self.weights = [[p.detach().clone().requires_grad_() for p in b.parameters()] for b in model.network.blocks]
        self.head = [p.detach().clone().requires_grad_() for p in model.head.parameters()] if model.head else None
        self.optimizers = [torch.optim.Adam(w, lr=1.0) for w in self.weights]
        self.head_optimizer = torch.optim.Adam(self.head, lr=1.0) if self.head else None
        first: Any = model.network.blocks[0]
        self.judge = [torch.zeros(4, len(first.bias), requires_grad=True), torch.zeros(4, requires_grad=True)]
        self.judge_optimizer = torch.optim.Adam(self.judge, lr=1.0)
        self.labels = data.train.labels
        pixels = data.train.inputs.double()
        self.pixels = ((pixels - pixels.mean()) / pixels.std(correction=0)).float().flatten(1)
        self.negatives = torch.zeros_like(self.labels)

    def inputs(self, part: Tensor, label_BC: Tensor) -> Tensor:
        rows = self.pixels[part].clone()
        rows[:, :4] = STRENGTH * label_BC
        return self.norm(rows)

    @staticmethod
    def norm(h: Tensor) -> Tensor:
        return h / (h.square().mean(1, keepdim=True) + 1e-6).sqrt()

    def one_hot(self, labels: Tensor) -> Tensor:
        return functional.one_hot(labels, 4).float()

    def block(self, index: int, x: Tensor) -> Tensor:
        return functional.linear(x, *self.weights[index]).relu()

    def below(self, index: int, x: Tensor) -> Tensor:
        """The input of block `index`."""
        with torch.no_grad():
            for lower in range(index):
                x = self.norm(self.block(lower, x))
        return x

    def features(self, part: Tensor) -> Tensor:
        neutral = self.inputs(part, torch.full((len(part), 4), 0.25))
        return torch.cat([self.below(index + 1, neutral) for index in range(1, len(self.weights))], 1)

    def scores(self, part: Tensor) -> Tensor:
        with torch.no_grad():
            if self.head:
                return functional.linear(self.features(part), *self.head)
            views = [self.inputs(part, self.one_hot(torch.full((len(part),), c))) for c in range(4)]
            totals = []
            for x in views:
                goodness = [self.block(at, self.below(at, x)).square().mean(1) for at in range(1, len(self.weights))]
                totals.append(torch.stack(goodness).sum(0))
            return torch.stack(totals, 1)

    def rate(self, epoch: int) -> float:
        total, e = self.run.epochs, min(epoch + 1, self.run.epochs - 1)
        return min(1.0, 2 * (total - e) / total)

    def learn_block(self, index: int, part: Tensor, epoch: int, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.block(index, x)
        positive, negative = h.square().mean(1).chunk(2)
        loss = functional.softplus(-4 * (positive - negative)).mean()
        self.step(self.optimizers[index], loss, self.run.optimizer.lr * self.rate(epoch))
        return h.detach(), loss.detach()

    def learn_head(self, part: Tensor, epoch: int) -> Tensor:
        assert self.head
        assert self.head_optimizer
        logits = functional.linear(self.features(part), *self.head)
        lr = self.run.optimizer.head_lr or self.run.optimizer.lr
        self.step(self.head_optimizer, functional.cross_entropy(logits, self.labels[part]), lr * self.rate(epoch))
        return logits.detach()

    def learn_judge(self, part: Tensor, epoch: int) -> Tensor:
        """A head on the first block's neutral activity."""
        x = self.below(1, self.inputs(part, torch.full((len(part), 4), 0.25)))
        logits = functional.linear(x, *self.judge)
        lr = self.run.optimizer.head_lr or self.run.optimizer.lr
        self.step(self.judge_optimizer, functional.cross_entropy(logits, self.labels[part]), lr * self.rate(epoch))
        return logits.detach()

    @staticmethod
    def step(optimizer: torch.optim.Adam, loss: Tensor, lr: float) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()

    def draw(self, chapter: int) -> None:
        kind: Any = self.run.negatives
        draw = generator(self.run.seed, "negatives", chapter)
        everything = torch.arange(len(self.labels))
        if chapter == 0:
            self.negatives = kind.draw(self.labels, 4, None, draw)
        elif kind.kind == "adaptive":
            scores = self.scores(everything)
            scores[everything, self.labels] = float("-inf")
            self.negatives = scores.argmax(1)
        elif kind.kind == "random" or (kind.kind == "sampled" and self.run.order == "chapters"):
            self.negatives = kind.draw(self.labels, 4, self.scores(everything), draw)

    def pairs(self, part: Tensor) -> Tensor:
        return torch.cat([self.inputs(part, self.one_hot(v[part])) for v in (self.labels, self.negatives)])

    def parts(self, epoch: int) -> list[Tensor]:
        order = torch.randperm(len(self.labels), generator=generator(self.run.seed, "order", epoch))
        return list(order.split(self.run.batch_size))

    def chapters(self) -> None:
        per_chapter = self.run.epochs_per_chapter
        for chapter in range(self.run.chapter_count):
            self.draw(chapter)
            epochs = range(chapter * per_chapter, (chapter + 1) * per_chapter)
            for index in range(len(self.weights)):
                for epoch in epochs:
                    for part in self.parts(epoch):
                        self.learn_block(index, part, epoch, self.below(index, self.pairs(part)))
            if self.head:
                for epoch in epochs:
                    for part in self.parts(epoch):
                        self.learn_head(part, epoch)

    def simultaneous(self) -> None:
        for epoch in range(self.run.epochs):
            if epoch % self.run.epochs_per_chapter == 0:
                self.draw(epoch // self.run.epochs_per_chapter)
            for batch, part in enumerate(self.parts(epoch)):
                logits = self.learn_head(part, epoch) if self.head else None
                if getattr(self.run.negatives, "judge", "") == "first-block":
                    logits = self.learn_judge(part, epoch)
                if self.run.negatives.kind == "sampled":
                    scores = self.scores(part) if logits is None else logits
                    draw = generator(self.run.seed, "negatives", epoch, batch)
                    wrong: Any = self.run.negatives
                    self.negatives[part] = wrong.draw(self.labels[part], 4, scores, draw)
                x = self.pairs(part)
                for index in range(len(self.weights)):
                    h, _ = self.learn_block(index, part, epoch, x)
                    x = self.norm(h)  # the outputs from before the update


@pytest.mark.parametrize("order", ["chapters", "simultaneous"])
@pytest.mark.parametrize("readout", ["goodness", "softmax"])
@pytest.mark.parametrize("negatives", ["fixed", "random", "adaptive", "sampled"])
def test_training_by_hand(order: str, readout: str, negatives: str) -> None:
    check_by_hand(order, readout, {"kind": negatives})


@pytest.mark.parametrize("readout", ["goodness", "softmax"])
def test_judged_by_the_first_block_by_hand(readout: str) -> None:
    check_by_hand("simultaneous", readout, {"kind": "sampled", "judge": "first-block"})


def check_by_hand(order: str, readout: str, negatives: dict[str, str]) -> None:
    """Two chapters of two epochs, three blocks (and the head), ragged minibatches: equal to rounding."""
    run = small_run(
        order=order,
        negatives=negatives,
        readout={"kind": readout},
        objective={"kind": "forward-forward", "loss": {"kind": "symba"}},
        rate={"kind": "cool-down"},
        optimizer={"lr": 0.01, "head_lr": 0.02},
        epochs=4,
        chapters=2,
    )
    model = build_model(run, DATA)
    other = ByHand(model, run, DATA)
    trainer = make_trainer(model, DATA)
    assert isinstance(trainer, Trainer)
    events = list(trainer.train())
    assert len(events) == trainer.steps == trainer.steps_done
    getattr(other, order)()
    assert torch.equal(trainer.negatives_n, other.negatives)
    assert (trainer.negatives_n != DATA.train.labels).all()
    for block, weights in zip(model.network.blocks, other.weights, strict=True):
        for actual, expected in zip(block.parameters(), weights, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-3, atol=2e-4)
    if model.head is not None and other.head:
        for actual, expected in zip(model.head.parameters(), other.head, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-3, atol=2e-4)
    everything = torch.arange(len(DATA.train))
    assert torch.equal(model.predict(DATA.train.inputs), other.scores(everything).argmax(1))


def test_rows_tell_what_happened() -> None:
    """The numbers of an epoch are of the outputs before each update, weighted by image."""
    run = small_run(order="chapters", epochs=2, negatives={"kind": "fixed"}, rate={"kind": "constant"})
    model = build_model(run, DATA)
    other = ByHand(model, run, DATA)
    other.draw(0)
    rows = [event.rows for event in make_trainer(model, DATA).train() if isinstance(event, EpochDone)]
    assert [[(row.epoch, row.block) for row in group] for group in rows] == [
        [(1, "1")], [(1, "2")], [(1, "3")], [(2, "1")], [(2, "2")], [(2, "3")]
    ]  # fmt: skip
    seen = []
    other.optimizers[0].param_groups[0]["lr"] = 0.01
    for part in other.parts(0):
        goodness = other.block(0, other.pairs(part)).detach().square().mean(1)
        seen.append(torch.stack(goodness.chunk(2), 1))
        h = other.block(0, other.pairs(part)).square().mean(1)
        positive, negative = h.chunk(2)
        other.step(other.optimizers[0], functional.silu(-8 * (positive - negative)).mean(), 0.01)
    pairs = torch.cat(seen)
    row = rows[0][0]
    assert row.goodness_positive == pytest.approx(pairs[:, 0].mean().item(), rel=1e-4)
    assert row.goodness_negative == pytest.approx(pairs[:, 1].mean().item(), rel=1e-4)
    assert row.accuracy == pytest.approx((pairs[:, 0] > pairs[:, 1]).float().mean().item())
    assert row.loss == pytest.approx(
        functional.silu(-8 * (pairs[:, 0] - pairs[:, 1])).mean().item(), rel=1e-3, abs=1e-5
    )


LEARNING: dict[str, dict[str, Any]] = {
    "goodness": {},
    "logistic, l2, sum": {
        "objective": {"kind": "forward-forward", "goodness": "sum", "loss": {"kind": "logistic", "theta": 2.0}},
        "network": {"kind": "mlp", "widths": [40, 40, 40], "normaliser": {"kind": "l2"}},
        "optimizer": {"lr": 0.03},
    },
    "peer, appended label": {
        "objective": {"kind": "forward-forward", "peer": 0.03},
        "labels": {"strength": 3.0, "position": "append"},
    },
    "adaptive, softmax": {"negatives": {"kind": "adaptive"}, "readout": {"kind": "softmax"}},
    "sampled, softmax": {"negatives": {"kind": "sampled"}, "readout": {"kind": "softmax"}},
    "local heads": LOCAL,
    "bf16": {"precision": "bf16-mixed"},
    "unsupervised": UNSUPERVISED,
}


@pytest.mark.parametrize("order", ["chapters", "simultaneous"])
@pytest.mark.parametrize("settings", LEARNING.values(), ids=LEARNING.keys())
def test_it_learns(settings: dict[str, Any], order: str) -> None:
    """Well above the chance of a fifth on images it has not seen."""
    data = small_data(count=200, classes=5, shape=(1, 6, 6), noise=60.0)
    base: dict[str, Any] = {
        "network": {"kind": "mlp", "widths": [40, 40, 40]},
        "epochs": 10,
        "order": order,
        "rate": {"kind": "constant"},
    }
    outcome = train_through(small_run(**base | settings), data, [])
    assert data.test is not None
    assert outcome.model.accuracy(data.test) > 0.7
    for block in ("1", "3"):
        losses = [row.loss for row in outcome.rows if row.block == block]
        assert len(losses) == 10
        assert min(losses[5:]) < losses[0]


@pytest.mark.parametrize("order", ["chapters", "simultaneous"])
def test_the_seed_decides(order: str) -> None:
    run = small_run(order=order, augment={"shift": 1, "flip": True})
    torch.manual_seed(1)
    first = train_through(run, DATA, [])
    torch.manual_seed(2)
    again = train_through(run, DATA, [])
    assert first.sha256 == again.sha256
    assert first.rows == again.rows
    assert train_through(run.replace(seed=1), DATA, []).sha256 != first.sha256


@pytest.mark.parametrize("order", ["chapters", "simultaneous"])
@pytest.mark.parametrize("settings", [{}, LOCAL], ids=["forward-forward", "heads"])
def test_a_run_that_diverges_says_so(order: str, settings: dict[str, Any]) -> None:
    """It went on to the end with losses of nan, and left a model that always answers the same."""
    with pytest.raises(LayerlineError, match=r"diverged: the loss of block 1 is (nan|inf) in epoch \d") as diverged:
        train_through(small_run(order=order, optimizer={"lr": 1e30}, **settings), DATA, [])
    assert diverged.value.hint == "choose a smaller learning rate than 1e+30: --lr"


def convolutions() -> list[nn.Module]:
    return [
        nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
        nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.1)),
        nn.Sequential(nn.Flatten(), nn.Linear(54, 12), nn.ReLU()),
    ]


@pytest.mark.parametrize("order", ["chapters", "simultaneous"])
@pytest.mark.parametrize(
    "settings", [LOCAL, {}, {"readout": {"kind": "softmax"}}], ids=["heads", "goodness", "softmax"]
)
def test_blocks_of_ones_own(settings: dict[str, Any], order: str) -> None:
    """Images stay images; batch statistics move only where a block learns, by what it learned from."""
    data = small_data(count=120, classes=3, shape=(1, 6, 6))
    run = small_run(**{"epochs": 6, "order": order, "optimizer": {"lr": 0.02}} | settings)
    outcome = train_through(run, data, [], blocks=convolutions)
    assert not outcome.model.encoder.flat
    assert data.test is not None
    assert outcome.model.accuracy(data.test) > 0.6
    norm: Any = outcome.model.network.blocks[0][1]  # type: ignore[index]
    assert norm.num_batches_tracked == 6 * 8, "one per minibatch learned from"
    assert norm.training
    before = norm.running_mean.clone()
    scores = outcome.model.scores(data.test.inputs)
    assert torch.equal(outcome.model.scores(data.test.inputs[:5])[0].argmax(), scores[0].argmax())
    assert torch.equal(norm.running_mean, before)


def test_float_images_stay_images() -> None:
    data = small_data(count=24, classes=3, shape=(1, 6, 6))
    assert data.test is not None
    from layerline.data.dataset import Examples

    as_float = Dataset("f", Examples(data.train.inputs.float(), data.train.labels), None, data.classes)
    model = build_model(small_run(**LOCAL), as_float, convolutions())
    assert model.encoder.input_shape == (1, 6, 6)
    assert model.predict(as_float.train.inputs).shape == (24,)


def test_hybrids_mix_two_images() -> None:
    """The positive view is the image; the negative one has its pixels under the mask and another image's elsewhere."""
    run = small_run(
        **UNSUPERVISED
        | {"standardise": "none", "network": {"kind": "mlp", "widths": [5, 5], "normaliser": {"kind": "none"}}}
    )
    trainer: Any = make_trainer(build_model(run, DATA), DATA)
    indices = torch.arange(len(DATA.train)).flip(0)
    positive, negative = trainer.first_input(indices, 1, None).chunk(2)
    pixels = DATA.train.inputs.flatten(1).float() / 255
    assert torch.equal(positive, pixels[indices])
    kept = []
    for row, index in zip(negative, indices.tolist(), strict=True):
        others = [other for other in range(len(pixels)) if ((row == pixels[index]) | (row == pixels[other])).all()]
        assert set(others) - {index}, "mixed with one other image"
        kept.append((row == pixels[index]).float().mean().item())
    assert 0.3 < sum(kept) / len(kept) < 0.7
    again = trainer.first_input(indices[:7], 1, None).chunk(2)[1]
    assert torch.equal(again, negative[:7]), "the same all epoch, whatever the minibatch"
    assert not torch.equal(trainer.first_input(indices, 2, None).chunk(2)[1], negative)
