"""Judging a trained model on held-out examples: everybody's, or those that each node keeps to itself."""

from __future__ import annotations

from collections.abc import Callable

from layerline.data.own import OwnData
from layerline.data.text_set import AnySet
from layerline.runtime.training import Predictor


def _go_on() -> None:
    pass


def readouts_of(model: Predictor, data: AnySet, heed: Callable[[], None] = _go_on) -> dict[str, float]:
    """Accuracy on the held-out examples of every readout that the model has, the chosen one first."""
    test = data.test
    assert test is not None
    return model.accuracies(test, heed)


Judged = dict[int, tuple[int, dict[str, float]]]
"""Of every node: how many held-out examples it has, and the fraction of them that each readout gets right."""


def judge_own(model: Predictor, data: OwnData, heed: Callable[[], None] = _go_on) -> Judged:
    """What the nodes here find on their own held-out examples; without any, 0 and nothing."""
    return {
        node: (len(part.test), readouts_of(model, part, heed)) if part.test else (0, {})
        for node, part in data.parts.items()
    }


def judged_together(judged: Judged) -> dict[str, float]:
    """The accuracy of every readout over the held-out examples of all nodes, in their order."""
    found = [judged[node] for node in sorted(judged) if judged[node][0]]
    count = sum(examples for examples, _ in found)
    return {
        kind: sum(examples * readouts[kind] for examples, readouts in found) / count
        for kind in (found[0][1] if found else ())
    }
