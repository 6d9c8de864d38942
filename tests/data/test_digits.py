"""The bundled digits and their fixed split."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from layerline.data import digits
from layerline.data.digits import load_digits
from layerline.errors import DataError


def test_the_set_and_its_split() -> None:
    data = load_digits()
    assert data.test is not None
    assert (data.name, data.shape, len(data.train), len(data.test)) == ("digits", (1, 8, 8), 1438, 359)
    both = torch.cat([data.train.inputs, data.test.inputs])
    assert (both.dtype, int(both.min()), int(both.max())) == (torch.uint8, 0, 255)
    counts = data.test.labels.bincount(minlength=10)
    assert counts.min() >= 34
    assert counts.max() <= 37
    assert data.digest() == load_digits().digest()
    data.hold_out()


def test_same_as_scikit_learn_says() -> None:
    from sklearn.datasets import load_digits as original

    data = load_digits()
    expected = original()
    assert data.test is not None
    held = digits._held_out(expected.target)
    scaled = np.rint(expected.images * 255 / 16).astype(np.uint8)
    assert np.array_equal(data.train.inputs.numpy()[:, 0], scaled[~held])
    assert np.array_equal(data.test.inputs.numpy()[:, 0], scaled[held])
    assert np.array_equal(data.test.labels.numpy(), expected.target[held])


def test_table_kept_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expected = load_digits().digest()
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None
    monkeypatch.setattr(spec, "submodule_search_locations", [str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    assert load_digits().digest() == expected


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DataError, match=r"pip install scikit-learn"):
        load_digits()
