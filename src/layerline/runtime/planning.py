"""From a Run to its plan: the sizes of its network and data in numbers, and the work they make.

Slots are dealt out by the cost formula for an assumed machine, never by what was measured, so every process of a run
makes the same plan, and so does whoever resumes it.
"""

from __future__ import annotations

import math

from layerline.blocks.network import Mlp
from layerline.data.dataset import Dataset
from layerline.data.own import OwnData
from layerline.errors import UsageError
from layerline.objectives.local_cross_entropy import LocalCrossEntropy
from layerline.readouts.readouts import Softmax
from layerline.run import Run
from layerline.schedules.base import named_nodes, unused_nodes
from layerline.schedules.costs import Machine, Sizes, estimate
from layerline.schedules.plan import Plan
from layerline.schedules.validate import validate


def sizes_of(run: Run, shape: tuple[int, ...], classes: int, examples: int) -> Sizes | None:
    """The numbers of a run's blocks on training data of so many examples [*shape]; None for modules of one's own."""
    if not isinstance(run.network, Mlp):
        return None
    features = math.prod(shape)
    head = isinstance(run.readout, Softmax)
    return Sizes(
        inputs=run.labels.width(features, classes) if run.writes_labels else features,
        units=run.network.widths,
        classes=classes,
        examples=examples,
        batch=run.batch_size,
        epochs=run.epochs_per_chapter,
        views=run.objective.views,
        labelled=run.writes_labels,
        local_heads=isinstance(run.objective, LocalCrossEntropy),
        joined=run.objective.joins_blocks,
        head=head,
        skip=run.readout.skip if isinstance(run.readout, Softmax) else 1,
        judge=None if not run.judged else "head" if head else "goodness",
        number_bytes=2 if run.precision == "bf16-mixed" else 4,
        full_batch=run.full_batch,
    )


def planned(run: Run, blocks: int, sizes: Sizes | None = None, examples: int = 0) -> Plan:
    """The run's plan, validated. Without sizes every block costs the same.

    `examples`: of the training set, where there are no sizes that say it.
    """
    work = run.work(blocks, sizes.examples if sizes else examples)
    if sizes is not None:
        work = estimate(sizes, Machine()).work(work)
    plan = run.schedule.plan(work)
    validate(plan)
    return plan


def plan_of(run: Run, data: Dataset | OwnData, blocks: int | None = None) -> Plan:
    """The plan of a run on its data. `blocks`: how many there are, where they are modules of one's own."""
    blocks = run.block_count or blocks or 0
    return planned(run, blocks, sizes_of(run, data.shape, data.num_classes, data.examples), data.examples)


def refuse_unused_nodes(run: Run, plan: Plan, examples: int = 0) -> None:
    """UsageError for nodes that would have nothing to do."""
    unused = unused_nodes(plan)
    if unused:
        why = run.schedule.why_unused(run.work(plan.blocks, examples))
        raise UsageError(
            f"{named_nodes(unused)} would have nothing to do: {why}",
            hint=f"choose --nodes {plan.nodes - len(unused)}",
        )
