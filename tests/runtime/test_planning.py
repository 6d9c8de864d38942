"""From a Run to its plan: the same numbers the model has, the same plan in every process, no node without work."""

from __future__ import annotations

from typing import Any

import pytest

from layerline.blocks.network import Own
from layerline.errors import UsageError
from layerline.presets.presets import preset
from layerline.run import Run
from layerline.runtime.model import build_model
from layerline.runtime.planning import planned, refuse_unused_nodes, sizes_of
from layerline.schedules.costs import Machine, estimate
from layerline.schedules.plan import Action
from small_runs import LOCAL, small_data, small_run


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"readout": {"kind": "softmax"}},
        {"labels": {"position": "append"}},
        {"negatives": {"kind": "masked-hybrid"}, "readout": {"kind": "softmax"}},
        LOCAL,
    ],
)
def test_bytes_are_the_models(settings: dict[str, Any]) -> None:
    """Weights of the cost formula are the parameters that the model really has, stage by stage."""
    run = small_run(order="chapters", **settings)
    data = small_data()
    model = build_model(run, data)
    sizes = sizes_of(run, data.shape, data.num_classes, len(data.train))
    assert sizes is not None
    blocks = zip(model.network.blocks, model.states, strict=True)
    real = [sum(4 * p.numel() for module in pair for p in module.parameters()) for pair in blocks]
    if model.head is not None:
        real.append(sum(4 * p.numel() for p in model.head.parameters()))
    assert list(estimate(sizes, Machine()).weights) == real


def test_a_run_is_planned_as_it_says() -> None:
    run = Run.from_dict(
        preset("pff-mnist").run.to_dict()
        | {"schedule": {"kind": "single-layer"}, "nodes": 5, "negatives": {"kind": "adaptive"}}
        | {"readout": {"kind": "softmax"}}
    )
    sizes = sizes_of(run, (1, 28, 28), 10, 60_000)
    plan = planned(run, 4, sizes)
    assert (plan.schedule, plan.nodes, plan.slots, plan.head) == ("single-layer", 5, 500, True)
    assert (plan.action == Action.NEGATIVES).any()
    refuse_unused_nodes(run, plan)
    again = planned(run, 4, sizes)
    assert plan.source.tobytes() == again.source.tobytes()
    assert plan.node.tobytes() == again.node.tobytes()


def test_random_negatives_are_nobodys_work() -> None:
    run = small_run(order="chapters", epochs=4, nodes=2, schedule={"kind": "all-layers"})
    assert not (planned(run, 3).action == Action.NEGATIVES).any()


def test_nodes_without_work_are_refused() -> None:
    run = small_run(order="chapters", epochs=4, nodes=7, schedule={"kind": "single-layer"})
    with pytest.raises(UsageError, match=r"node 7 would have nothing to do: Single-Layer uses .*\n.*--nodes 6"):
        refuse_unused_nodes(run, planned(run, 3))


def test_modules_of_ones_own_have_no_sizes() -> None:
    run = small_run(order="chapters").replace(network=Own())
    assert sizes_of(run, (1, 5, 5), 4, 41) is None
    assert planned(run, 3).slots == 6
