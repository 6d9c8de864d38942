"""Local cross-entropy: a softmax head on every block, the Performance-Optimized PFF (v2 §4.4; Mono-Forward 2501.09238).

loss_l = CE(M_l h_l + m_l, y);  its gradient reaches M_l, m_l and block l only
"""

from __future__ import annotations

from typing import Literal

from layerline.objectives.cross_entropy import BaseCrossEntropy


class LocalCrossEntropy(BaseCrossEntropy):
    """A linear softmax head on each block's output (PFF v2, arXiv 2404.08573 §4.4)."""

    kind: Literal["local-cross-entropy"] = "local-cross-entropy"
