"""What a step of a convolutional stream is made of, beside what its products alone would take.

    python benchmarks/conv_step.py [dgl-cifar10 backprop-cifar10 interlocking-cifar10] [--steps 6]

Every operation of PyTorch is timed on its own, in processor time of one thread; of the same operation in several steps
the shortest time counts, so that other work on the machine disturbs little. The bound: the products of blocks and
heads at the rate of a large matrix product in bfloat16, measured here. A block's forward pass, its weight gradient and
each gradient that goes on to its input take as many multiply-accumulates; what gradients need inside a block of several
convolutions is not counted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.utils._python_dispatch import TorchDispatchMode

from layerline.blocks.cost import layer_costs
from layerline.presets.presets import preset
from layerline.runtime.memory import kept_memory
from layerline.runtime.stream.model import StreamModel, build_stream_model
from layerline.runtime.stream.trainer import StreamTrainer
from layerline.sets import load_set
from layerline.stream_run import StreamRun

GROUPS = {
    "convolutions, forward": ("convolution",),
    "convolutions, backward": ("convolution_backward",),
    "batch norm": ("native_batch_norm", "_native_batch_norm_legit", "native_batch_norm_backward"),
    "ReLU": ("relu_", "threshold_backward"),
    "pooling": ("avg_pool2d", "max_pool2d_with_indices", "max_pool2d_with_indices_backward"),
    "linear layers": ("mm", "addmm"),
    "casts and copies": ("_to_copy", "copy_", "clone"),
    "sums of gradients, zeros": ("add", "add_", "_foreach_add_", "_foreach_zero_"),
    "optimizer": ("_fused_sgd_",),
}
"""Parts of a step, by PyTorch's names; all else is the rest."""
REST = "the rest"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", default=["dgl-cifar10", "backprop-cifar10", "interlocking-cifar10"])
    parser.add_argument("--steps", type=int, default=6)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rate = product_rate()
    table = Table("ms a step", *given.presets)
    with kept_memory():
        found = [measured(name, given.steps, rate) for name in given.presets]
    for part in found[0]:
        table.add_row(part, *(f"{column[part]:.1f}" for column in found))
    console = Console()
    console.print(f"a product in bfloat16: {rate / 1e9:.0f} GFLOP/s")
    console.print(table)


def product_rate() -> float:
    """Operations a second of a large product in bfloat16, the best of ten."""
    side = 2048
    a, b = (torch.randn(side, side, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(10):
        begin = time.process_time()
        torch.mm(a, b)
        seconds.append(time.process_time() - begin)
    return 2 * side**3 / min(seconds)


def measured(name: str, steps: int, rate: float) -> dict[str, float]:
    """Milliseconds of a step by part, their sum and the bound."""
    run = preset(name).run
    assert isinstance(run, StreamRun)
    data = load_set(run)
    model = build_stream_model(run, data)
    model.train()
    trainer = StreamTrainer(model, data)
    timed = [timed_step(trainer, step) for step in range(steps + 2)][2:]  # the first ones warm up
    parts = dict.fromkeys([*GROUPS, REST], 0.0)
    for (operation, _), *calls in zip(timed[0], *timed, strict=True):
        part = next((part for part, names in GROUPS.items() if operation in names), REST)
        parts[part] += 1000 * min(seconds for _, seconds in calls)
    return parts | {"sum": sum(parts.values()), "bound": 1000 * 2 * run.batch_size * step_macs(model) / rate}


class Stopwatch(TorchDispatchMode):
    """Notes name and processor seconds of every operation inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[str, float]] = []

    def __torch_dispatch__(
        self, func: Any, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        begin = time.thread_time()
        found = func(*args, **(kwargs or {}))
        self.calls.append((func.overloadpacket.__name__, time.thread_time() - begin))
        return found


def timed_step(trainer: StreamTrainer, step: int) -> list[tuple[str, float]]:
    """The operations of a step, in order."""
    with Stopwatch() as stopwatch:
        trainer._learn(step)
    return stopwatch.calls


def step_macs(model: StreamModel) -> int:
    """Multiply-accumulates of an image: three products a head, and a block as often as gradients go through it."""
    costs = layer_costs(list(model.blocks), model.encoder.input_shape)
    total = 0
    for index, block in enumerate(costs):
        total += block.macs * (2 + len(model.reach.crossing(index)))
        head = model.head(index)
        if head is not None:
            total += 3 * layer_costs([head], block.output_shape)[0].macs
    return total


if __name__ == "__main__":
    main()
