"""A scikit-learn classifier: networks trained layer by layer in pipelines, searches and cross-validation.

Problem: scikit-learn wants flat constructor parameters, labels of any type and tables of features; a `Run` is nested,
labels are 0..C-1, and its defaults are made for images.

Solution: `fit` makes a `Run` of the parameters and a `Dataset` of the arrays, trains in memory and keeps the `Model`.
Two choices are made for tables:

1. Every feature is standardised by itself: columns of a table have scales of their own.
2. The first block must see how long a row is: with three features the length says much. Forward-Forward appends the
   label before the row is normalised, which keeps the length (as the label's size); local cross-entropy goes without a
   normaliser.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from layerline.api import train
from layerline.data.arrays import from_arrays
from layerline.errors import UsageError, did_you_mean
from layerline.run import Run
from layerline.runtime.model import Model

Rule = Literal["local-cross-entropy", "forward-forward"]


class LayerlineClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """An MLP whose layers each learn from a loss of their own.

    `widths`: units of each block. `rule`: "local-cross-entropy" (PFF v2 §4.4; has `predict_proba`) or "forward-forward"
    (Hinton, arXiv 2212.13345; has `decision_function`: goodness is no probability). `epochs`, `batch_size`,
    `learning_rate` (Adam's, falling to 0 along a cosine). `precision`: "32-true" or "bf16-mixed". `threads`: compute
    threads; for tables and small blocks one is fastest. `random_state`: with an int every fit gives the same bits.

    `settings`: any other setting of the `Run`, as the tables of its TOML; they go over the parameters above, e.g.
    `{"negatives": {"kind": "adaptive"}, "objective": {"loss": {"kind": "symba"}}}`.

    After `fit`: `classes_`, `n_features_in_`, `feature_names_in_` (if the columns have names), `run_` and `model_`, the
    `Run` and the `Model` behind them. Raises ValueError for data that cannot be used, `UsageError` for settings.
    """

    def __init__(
        self,
        widths: Sequence[int] = (200, 200),
        *,
        rule: Rule = "local-cross-entropy",
        epochs: int = 40,
        batch_size: int = 64,
        learning_rate: float = 0.003,
        precision: Literal["32-true", "bf16-mixed"] = "32-true",
        threads: int = 1,
        random_state: int | np.random.RandomState | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.widths = widths
        self.rule = rule
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.precision = precision
        self.threads = threads
        self.random_state = random_state
        self.settings = settings

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Train anew on X [n, features] and labels y [n] of any type. Returns self."""
        X, y = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(y)
        self.classes_, numbers = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"a classifier needs two classes to tell apart, but y has one class: {self.classes_[0]}")
        self.run_ = self._run(seed=int(check_random_state(self.random_state).randint(2**31 - 1)))
        names = [str(label) for label in self.classes_]
        data = from_arrays(X, numbers, name="X, y", classes=names)
        model = train(self.run_, data=data).model.cpu().eval()
        assert isinstance(model, Model)
        self.model_: Model = model
        return self

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The class of every row of X [n, features]: an array [n] of entries of `classes_`."""
        best = self._scores(X).argmax(1)
        labels: NDArray[Any] = self.classes_[best]
        return labels

    @available_if(lambda self: self.rule == "local-cross-entropy")  # type: ignore[untyped-decorator]
    def predict_proba(self, X: ArrayLike) -> NDArray[np.float32]:
        """The probability of every class, float32 [n, C]: the normalised geometric mean over the blocks' heads."""
        return torch.softmax(torch.from_numpy(self._scores(X)), 1).numpy()

    @available_if(lambda self: self.rule == "forward-forward")  # type: ignore[untyped-decorator]
    def decision_function(self, X: ArrayLike) -> NDArray[np.float32]:
        """The goodness of every class, float32 [n, C]; of two classes the second's less the first's, [n]."""
        scores = self._scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def _scores(self, X: ArrayLike) -> NDArray[np.float32]:
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=np.float32, reset=False)
        return self.model_.scores(torch.tensor(rows)).numpy()

    def _run(self, seed: int) -> Run:
        if self.rule not in get_args(Rule):
            raise UsageError(f"there is no rule '{self.rule}'{did_you_mean(str(self.rule), get_args(Rule))}")
        local = self.rule == "local-cross-entropy"
        flat = {
            "preset": "scikit-learn",
            "dataset": "arrays",
            "standardise": "channel",  # 1
            "network": {
                "kind": "mlp",
                "widths": list(self.widths),
                "normaliser": {"kind": "none" if local else "rms"},  # 2
            },
            "labels": {"position": "append"},
            "objective": {"kind": self.rule},
            "readout": {"kind": "all-heads"} if local else {"kind": "goodness", "skip": min(1, len(self.widths) - 1)},
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "optimizer": {"lr": self.learning_rate},
            "precision": self.precision,
            "threads": self.threads,
            "device": "cpu",
            "seed": seed,
        }
        return Run.from_dict(_over(flat, self.settings or {}), "LayerlineClassifier")


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of `above` over those of `below`; a table of another kind replaces the one below it."""
    merged = dict(below)
    for name, value in above.items():
        under = merged.get(name)
        if isinstance(value, Mapping) and isinstance(under, Mapping) and value.get("kind") in (None, under.get("kind")):
            value = _over(under, value)
        merged[name] = value
    return merged
