"""Taking a node over: another holder of its data goes on where a lost participant stopped.

Problem: what the lost one had at home is lost: its copies of blocks, its moments, its labels. Solution: the new one
begins as the node would have begun, and takes what was made for others from the server. Blocks come from there anyway,
with their moments where those travel; moments that stay at home begin at zero, and labels that somebody ranked begin
with those of the start. The result is another than without the loss, and as good a one.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from layerline.runtime.flower.mail import Parcel
from layerline.runtime.needs import Needs
from layerline.runtime.node import Node
from layerline.runtime.slots import Slots
from layerline.schedules.plan import Action, Plan
from layerline.transport.link import Incoming
from layerline.transport.message import Wire


def adopt(slots: Slots, plan: Plan, node: Node, done: set[int], parcels: Sequence[Parcel]) -> None:
    """Note the rows that the lost one has `done`, with what later rows may ask for. `parcels`: from the server."""
    mine = int(plan.node[min(done)])
    given = _given(plan, mine, parcels)
    needed = done - Needs(plan).over(done, done)
    for row in sorted(done - slots.done(mine)):
        if row in needed:
            slots.save(row, _begun(plan, node, row) | given.get(row, {}))
        slots.tell(mine, {"row": row, "durable": True, "sitting": 0, "begin": 0.0, "end": 0.0})


def _given(plan: Plan, node: int, parcels: Sequence[Parcel]) -> dict[int, dict[str, Tensor]]:
    """The node's own blocks among the parcels."""
    refuse = Wire(b"\0" * 32, 0, "the server").refuse
    messages = [parcel.message(plan, "the server") for parcel in parcels]
    return {m.key.row: Incoming().decode(m, refuse) for m in messages if m.source == node}


def _begun(plan: Plan, node: Node, row: int) -> dict[str, Tensor]:
    """What the node would have begun with."""
    stage, chapter = int(plan.stage[row]), int(plan.chapter[row])
    if plan.action[row] == Action.TRAIN:
        return {name: tensor.clone() for name, tensor in node.learner_tensors(stage).items()}
    return {"labels": node.negatives(chapter + 1, None, plan.part(row, len(node.data)))}
