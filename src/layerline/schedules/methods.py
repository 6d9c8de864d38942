"""The ways to compute backprop that PyTorch brings along, and what each asks for.

    plain               the whole network in one process
    ddp                 a copy of the network on every node, a slice of the minibatch each; gradients are averaged
    gpipe               a stage on every node: all forwards, then all backwards           arXiv 1811.06965
    1f1b                a forward and a backward in turn                                  arXiv 1806.03377
    interleaved-1f1b    the same with two stages on every node                            arXiv 2104.04473
    zero-bubble         gradients of weights wait until there is nothing else to do       arXiv 2401.10241

All are the same sums. PyTorch has limits of its own: which numbers of microbatches a schedule takes is said here,
before anything starts.
"""

from __future__ import annotations

from typing import Literal

from layerline.errors import UsageError

Method = Literal["plain", "ddp", "gpipe", "1f1b", "interleaved-1f1b", "zero-bubble"]

LOOPS = 2
"""Stages on every node of an interleaved schedule."""


def stages_of(method: Method, nodes: int) -> int:
    """Into how many stages a pipeline cuts the network."""
    return nodes * LOOPS if method == "interleaved-1f1b" else nodes


def owns_stages(method: Method) -> bool:
    """Whether every node has one stage: blocks in a row."""
    return method not in ("plain", "ddp") and stages_of(method, 1) == 1


def refuse_shape(method: Method, nodes: int, microbatches: int) -> None:
    """UsageError for nodes or microbatches that the method cannot use."""
    if method == "plain":
        if nodes > 1:
            raise UsageError(
                "plain backprop is one process that computes everything",
                hint=f"leave out --nodes, or divide the work: --method ddp --nodes {nodes}",
            )
        return
    if nodes == 1:
        raise UsageError(
            f"--method {method} divides the work among nodes", hint=f"say how many: --method {method} --nodes 2"
        )
    if method == "1f1b" and microbatches < nodes:
        raise UsageError(
            f"1F1B keeps every node busy with a microbatch: {microbatches} do not do for {nodes} nodes",
            hint=f"choose --microbatches {nodes}, or more",
        )
    rounds = max(1, microbatches // nodes)
    if method in ("interleaved-1f1b", "zero-bubble") and microbatches % rounds:
        raise UsageError(
            f"--method {method} shares out {microbatches} microbatches among {nodes} nodes in {rounds} rounds, "
            "which are not alike",
            hint=f"choose --microbatches {nodes * rounds}",
        )
