"""What a stream's model answers by: the scores after one of its blocks, or after all of them together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class BlockReadout:
    """What the scores after some blocks say.

    `kind`: "last", "block-2" for the head on the second block, or "all-heads": log-probabilities of all blocks that
    have scores, each weighted twice as much as the one before (Belilovsky et al., arXiv 1812.11446).
    """

    blocks: tuple[int, ...]
    kind: str


def together(scores: Sequence[Tensor]) -> Tensor:
    """After one block its scores [B, C]; of several, their log-probabilities together."""
    if len(scores) == 1:
        return scores[0]
    found = torch.log_softmax(scores[0], -1)
    for each in scores[1:]:  # what came before counts half; powers of 2 would overflow in deep networks
        found = found / 2 + torch.log_softmax(each, -1)
    return found / (2 - 2.0 ** (1 - len(scores)))
