"""What a federated run says of each participant: its traffic, its examples, how right the finished model is on them.

Nodes that reach each other send every copy themselves, so a block that goes to three counts three times on its way up;
on Flower the server makes the copies, and counts what passes it (`conductor`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from layerline.data.dataset import Dataset
from layerline.data.own import OwnData
from layerline.run import Run
from layerline.runtime.model import Model
from layerline.runtime.pipeline import part_of
from layerline.schedules.federated import Federated
from layerline.schedules.lower import messages
from layerline.schedules.plan import Plan

Facts = Mapping[int, Sequence[Mapping[str, Any]]]


def values_of_participants(
    run: Run, plan: Plan, data: Dataset | OwnData, model: Model, facts: Facts, heed: Callable[[], None]
) -> dict[str, Any]:
    """For `result.json` of a federated run; nothing for another one. `facts`: what the nodes noted.

    Examples and accuracy: of data that is divided here; data of their own the nodes judge themselves.
    """
    if not isinstance(run.schedule, Federated):
        return {}
    up, down = traffic(plan, facts)
    values: dict[str, Any] = {"bytes_up": up, "bytes_down": down}
    if isinstance(data, Dataset):
        held = [part_of(run, plan, data, node).train for node in range(plan.nodes)]
        values["participant_examples"] = [len(part) for part in held]
        values["participant_accuracies"] = [model.accuracy(part, heed=heed) for part in held]
    return values


def traffic(plan: Plan, facts: Facts) -> tuple[list[int], list[int]]:
    """Bytes that each node of a federated plan sent to the others, and was sent by them.

    All messages of a row are the same block for different readers, so each has its share of the row's bytes.
    """
    sent = messages(plan)
    up, down = [0] * plan.nodes, np.zeros(plan.nodes)
    for node, told in facts.items():
        others = [other for other in range(plan.nodes) if other != node]
        for fact in told:
            up[node] += fact["bytes"]
            begin, end = np.searchsorted(sent.source, (fact["row"], fact["row"] + 1))
            readers = others if plan.by_batch else sent.receiver[begin:end]  # a note of many rows: all went to all
            for reader in readers:
                down[reader] += fact["bytes"] / len(readers)
    return up, [round(each) for each in down]
