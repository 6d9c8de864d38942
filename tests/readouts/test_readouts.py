"""Every readout against plain numpy on a tiny network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from layerline.data.dataset import Dataset
from layerline.errors import DataError
from layerline.readouts.readouts import AllHeads, Goodness, LastHead, Softmax
from layerline.runtime.model import Model, build_model
from small_runs import LOCAL, small_data, small_run

Array = NDArray[np.float64]
DATA = small_data(count=12, classes=4)
SKIPS = [0, 1, 2]


def randomised(model: Model) -> Model:
    """Heads start at zero; give them something to say."""
    draw = torch.Generator().manual_seed(1)
    heads = [*model.heads, *([model.head] if model.head else [])]
    with torch.no_grad():
        for parameter in (p for head in heads for p in head.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=draw))
    return model


def raw() -> torch.Tensor:
    return DATA.train.inputs[:6]


def standardised() -> Array:
    values = DATA.train.inputs.numpy().astype(np.float64)
    pixels: Array = (raw().numpy().reshape(6, -1) - values.mean()) / values.std()
    return pixels


def labelled(part: Array) -> Array:
    """`part` [C] over the first C = 4 pixels."""
    rows = standardised()
    rows[:, :4] = part
    return rows


def rms(rows: Array) -> Array:
    scaled: Array = rows / np.sqrt((rows**2).mean(1, keepdims=True) + 1e-6)
    return scaled


def activities(model: Model, rows: Array) -> list[Array]:
    found = []
    for block in model.network.blocks:
        weight, bias = (p.detach().double().numpy() for p in block.parameters())
        found.append(np.maximum(rms(rows) @ weight.T + bias, 0))
        rows = found[-1]
    return found


def log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return result


def head_of(module: Any, rows: Array) -> Array:
    result: Array = rows @ module.weight.detach().double().numpy().T + module.bias.detach().double().numpy()
    return result


@pytest.mark.parametrize("goodness", ["mean", "sum"])
@pytest.mark.parametrize("skip", SKIPS)
def test_goodness(skip: int, goodness: str) -> None:
    run = small_run(
        objective={"kind": "forward-forward", "goodness": goodness}, readout={"kind": "goodness", "skip": skip}
    )
    model = build_model(run, DATA)
    expected = np.zeros((6, 4))
    for label in range(4):
        for h in activities(model, labelled(3.0 * np.eye(4)[label]))[skip:]:
            expected[:, label] += (h**2).mean(1) if goodness == "mean" else (h**2).sum(1)
    scores = model.scores(raw())
    assert scores.dtype == torch.float32
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert model.predict(raw()).tolist() == expected.argmax(1).tolist()
    assert torch.equal(model.scores(raw(), Goodness(skip=skip)), scores)


@pytest.mark.parametrize("skip", SKIPS)
def test_softmax(skip: int) -> None:
    model = randomised(build_model(small_run(readout={"kind": "softmax", "skip": skip}), DATA))
    seen = np.hstack([rms(h) for h in activities(model, labelled(np.full(4, 3.0 / 4)))[skip:]])
    assert model.head is not None
    assert model.head.weight.shape == (4, sum((9, 8, 7)[skip:]))
    np.testing.assert_allclose(model.scores(raw()).numpy(), head_of(model.head, seen), rtol=1e-4, atol=1e-5)


def test_softmax_without_labels_in_the_input() -> None:
    model = randomised(build_model(small_run(**LOCAL | {"readout": {"kind": "softmax"}}), DATA))
    seen = np.hstack([rms(h) for h in activities(model, standardised())[1:]])
    np.testing.assert_allclose(model.scores(raw()).numpy(), head_of(model.head, seen), rtol=1e-4, atol=1e-5)


def test_local_heads() -> None:
    """Heads see the block's output as it is; all heads together: the mean log-probability."""
    model = randomised(build_model(small_run(**LOCAL), DATA))
    each = [
        log_softmax(head_of(head, h)) for head, h in zip(model.heads, activities(model, standardised()), strict=True)
    ]
    np.testing.assert_allclose(model.scores(raw(), LastHead()).numpy(), each[-1], rtol=1e-4, atol=1e-5)
    for skip in SKIPS:
        expected = np.mean(each[skip:], 0)
        np.testing.assert_allclose(model.scores(raw(), AllHeads(skip=skip)).numpy(), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(model.scores(raw()), model.scores(raw(), AllHeads()))


def test_which_readouts_a_model_has() -> None:
    def kinds(**settings: Any) -> list[str]:
        return [r.kind for r in build_model(small_run(**settings), DATA).available_readouts()]  # type: ignore[attr-defined]

    assert kinds() == ["goodness"]
    assert kinds(readout={"kind": "softmax"}) == ["softmax", "goodness"]
    assert kinds(**LOCAL) == ["all-heads", "last-head"]
    assert kinds(**LOCAL | {"readout": {"kind": "softmax"}}) == ["softmax", "last-head", "all-heads"]
    unsupervised = {"negatives": {"kind": "masked-hybrid"}, "readout": {"kind": "softmax"}}
    assert kinds(**unsupervised) == ["softmax"]
    single = {"network": {"kind": "mlp", "widths": [5]}, "readout": {"kind": "softmax", "skip": 0}}
    assert kinds(**single) == ["softmax"]


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(small_run(), DATA)
    whole = model.scores(DATA.train.inputs)
    monkeypatch.setattr("layerline.runtime.model.CHUNK_ROWS", 8)
    torch.testing.assert_close(model.scores(DATA.train.inputs), whole)


def test_no_examples_and_wrong_ones() -> None:
    model = build_model(small_run(), DATA)
    assert model.scores(raw()[:0]).shape == (0, 4)
    assert model.predict(raw()[:0]).shape == (0,)
    with pytest.raises(DataError, match=r"examples of shape \(1, 5, 4\).*trained on \(1, 5, 5\)"):
        model.predict(torch.zeros(2, 1, 5, 4, dtype=torch.uint8))
    with pytest.raises(DataError, match="trained on uint8 images"):
        model.predict(torch.zeros(2, 1, 5, 5))


def test_scoring_changes_neither_examples_nor_model() -> None:
    """Float examples were standardised in the caller's tensor, so that a second look saw others."""
    data = small_data(shape=(11,))
    model = build_model(small_run(), data)
    before = data.train.inputs.clone()
    model.train()
    first = model.scores(data.train.inputs)
    assert torch.equal(data.train.inputs, before)
    assert torch.equal(model.scores(data.train.inputs), first)
    assert model.training


def test_accuracy() -> None:
    data: Dataset = small_data(count=16, noise=0.0)
    model = build_model(small_run(), data)
    right = (model.predict(data.train.inputs) == data.train.labels).double().mean().item()
    assert model.accuracy(data.train) == right
    assert isinstance(model.run.readout, Goodness)
    assert not isinstance(model.run.readout, Softmax)
