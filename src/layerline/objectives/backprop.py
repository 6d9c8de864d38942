"""Backprop: one softmax head behind the last block, whose gradient reaches all blocks; the rival of local learning.

    loss = CE(M h_L + m, y);  its gradient reaches M, m and every block

The network is one block, whatever it is made of. So all that is there for blocks is there for it: chapters, schedules,
messages. Averaged over the nodes of a federated schedule it is FedAvg (McMahan et al., arXiv 1602.05629).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from layerline.objectives.cross_entropy import BaseCrossEntropy


class Backprop(BaseCrossEntropy):
    """The whole network learns as one block, by the cross-entropy of one head at its end."""

    kind: Literal["backprop"] = "backprop"
    joins_blocks: ClassVar[bool] = True
