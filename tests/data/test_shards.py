"""A division gives every example to one node, and is the same for everybody who computes it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerline.data.shards import BaseShards, ByLabel, Dirichlet, Iid
from layerline.errors import UsageError

WAYS = st.one_of(
    st.builds(Iid), st.builds(ByLabel), st.builds(Dirichlet, concentration=st.sampled_from([0.01, 0.1, 1.0, 100.0]))
)


def spread(parts: list[np.ndarray], labels_n: np.ndarray) -> float:
    """Classes a shard holds, on average."""
    return float(np.mean([len(np.unique(labels_n[part])) for part in parts]))


@given(how=WAYS, labels=st.lists(st.integers(0, 9), min_size=1, max_size=80), seed=st.integers(0, 99), data=st.data())
@settings(max_examples=200, deadline=None)
def test_every_example_has_one_owner(how: BaseShards, labels: list[int], seed: int, data: st.DataObject) -> None:
    labels_n, shards = np.array(labels), data.draw(st.integers(1, len(labels)))
    parts = how.split(labels_n, shards, seed)
    assert len(parts) == shards
    assert all(len(part) for part in parts), "none is empty"
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    assert all((np.diff(part) > 0).all() for part in parts), "in ascending order"
    for part, again in zip(parts, how.split(labels_n, shards, seed), strict=True):
        assert np.array_equal(part, again)


def test_how_uneven_they_are() -> None:
    labels_n = np.arange(2000) % 10
    assert spread(Iid().split(labels_n, 5, 0), labels_n) == 10
    assert spread(ByLabel().split(labels_n, 5, 0), labels_n) == 2
    uneven = [spread(Dirichlet(concentration=alpha).split(labels_n, 5, 0), labels_n) for alpha in (100.0, 0.1, 0.01)]
    assert uneven[0] == 10 > uneven[1] > uneven[2]


def test_the_seed_decides() -> None:
    labels_n = np.arange(100) % 10
    assert not np.array_equal(Iid().split(labels_n, 2, 0)[0], Iid().split(labels_n, 2, 1)[0])


def test_more_nodes_than_examples() -> None:
    with pytest.raises(UsageError, match="3 examples cannot be divided among 4 nodes"):
        Iid().split(np.zeros(3, dtype=np.int64), 4, 0)
