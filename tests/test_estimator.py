"""The scikit-learn estimator: scikit-learn's own checks, and what they don't ask."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris, make_circles, make_classification
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from layerline.errors import UsageError
from layerline.estimator import LayerlineClassifier, Rule

RULES: tuple[Rule, ...] = get_args(Rule)


@parametrize_with_checks([LayerlineClassifier(rule=rule) for rule in RULES])  # type: ignore[untyped-decorator]
def test_scikit_learns_checks(estimator: LayerlineClassifier, check: Callable[[LayerlineClassifier], None]) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def iris() -> tuple[Any, Any]:
    X, y = load_iris(return_X_y=True)
    return X, y


@pytest.mark.parametrize("rule", RULES)
def test_iris(rule: Rule, iris: tuple[Any, Any]) -> None:
    assert cross_val_score(LayerlineClassifier(rule=rule, random_state=0), *iris, cv=3).mean() >= 0.93


@pytest.mark.parametrize("rule", RULES)
def test_the_length_of_a_row_is_not_lost(rule: Rule) -> None:
    X, y = make_circles(400, noise=0.1, factor=0.5, random_state=0)
    assert cross_val_score(LayerlineClassifier(rule=rule, random_state=0), X, y, cv=2).min() >= 0.97


@pytest.mark.parametrize("rule", RULES)
def test_the_same_random_state_gives_the_same_bits(rule: Rule, iris: tuple[Any, Any]) -> None:
    def weights(random_state: object) -> bytes:
        model = LayerlineClassifier(rule=rule, epochs=2, random_state=random_state).fit(*iris)  # type: ignore[arg-type]
        return b"".join(p.detach().numpy().tobytes() for p in model.model_.parameters())

    assert weights(3) == weights(3) != weights(4)
    stream = np.random.RandomState(3)
    assert weights(stream) != weights(stream)


def test_fit_leaves_the_callers_torch_as_it_was(iris: tuple[Any, Any]) -> None:
    before, threads, state = torch.get_num_threads(), 3, torch.get_rng_state()
    torch.set_num_threads(threads)
    try:
        LayerlineClassifier(epochs=1, threads=1).fit(*iris)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(torch.get_rng_state(), state)


def test_each_rule_offers_the_scores_it_has(iris: tuple[Any, Any]) -> None:
    local, forward = (LayerlineClassifier(rule=rule, epochs=2, random_state=0).fit(*iris) for rule in RULES)
    assert local.predict_proba(iris[0]).sum(1) == pytest.approx(1)
    assert forward.decision_function(iris[0]).shape == (150, 3)
    assert not hasattr(local, "decision_function")
    assert not hasattr(forward, "predict_proba")


def test_a_fitted_model_survives_pickling_and_cloning_forgets_it(iris: tuple[Any, Any]) -> None:
    fitted = LayerlineClassifier(epochs=2, random_state=0, settings={"objective": {"dropout": 0.2}}).fit(*iris)
    data = pickle.dumps(fitted)
    assert np.array_equal(pickle.loads(data).predict_proba(iris[0]), fitted.predict_proba(iris[0]))
    assert len(data) < 1_000_000
    assert not hasattr(clone(fitted), "model_")


def test_settings_go_over_the_parameters(iris: tuple[Any, Any]) -> None:
    settings: dict[str, Any] = {
        "epochs": 2,
        "optimizer": {"weight_decay": 0.1},
        "objective": {"loss": {"kind": "symba"}},
        "readout": {"kind": "softmax"},
        "negatives": {"kind": "adaptive"},
    }
    model = LayerlineClassifier(rule="forward-forward", epochs=9, learning_rate=0.02, settings=settings).fit(*iris)
    run = model.run_
    assert (run.epochs, run.optimizer.lr, run.optimizer.weight_decay) == (2, 0.02, 0.1)
    assert (run.readout.kind, run.negatives.kind) == ("softmax", "adaptive")


def test_a_grid_search_sees_every_parameter(iris: tuple[Any, Any]) -> None:
    search = GridSearchCV(
        LayerlineClassifier(epochs=2, random_state=0), {"widths": [(8,), (8, 8)], "rule": RULES}, cv=2
    )
    search.fit(*iris)
    assert set(search.cv_results_) >= {"param_widths", "param_rule"}
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rule": "forward"}, "no rule 'forward'; did you mean 'forward-forward'"),
        ({"widths": (0,)}, "at least one unit"),
        ({"epochs": 0}, "epochs"),
        ({"learning_rate": -1}, "optimizer.lr"),
        ({"settings": {"batchsize": 3}}, "unknown setting 'batchsize'; did you mean 'batch_size'"),
    ],
)
def test_impossible_parameters(parameters: dict[str, Any], message: str, iris: tuple[Any, Any]) -> None:
    with pytest.raises(UsageError, match=message):
        LayerlineClassifier(**parameters).fit(*iris)


def test_one_class_and_text_as_labels() -> None:
    X, y = make_classification(60, random_state=0)
    with pytest.raises(ValueError, match="one class: a"):
        LayerlineClassifier().fit(X, np.full(60, "a"))
    assert set(LayerlineClassifier(epochs=2).fit(X, np.where(y, "yes", "no")).predict(X)) <= {"yes", "no"}
