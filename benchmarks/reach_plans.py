"""How often a minibatch comes by the plan: of one network, for any reach, number of nodes and microbatches.

What `layerline plan` says, one network after the other in one process; `reach.py` makes a table and a plot of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from layerline.cli.stream_plan import model_of
from layerline.cli.units import LATENCY, LINK, bytes_per_second, seconds
from layerline.data.catalog import published_sizes
from layerline.data.dataset import held_out
from layerline.data.text_set import TextSet
from layerline.runtime.stream.measure import measure_stream
from layerline.runtime.stream.model import StreamModel
from layerline.runtime.stream.planning import costs_of, stream_of, world_of
from layerline.schedules.costs import Machine
from layerline.schedules.division import simulate_method
from layerline.schedules.stream_costs import StreamCosts
from layerline.schedules.stream_simulate import simulate_stream
from layerline.sets import load_set
from layerline.stream_run import StreamRun

PIPELINE = "1F1B"
_STEADY = 1000  # steps that are planned; only how often they come is looked at


@dataclass(frozen=True)
class Planner:
    """Steps of a preset's network by the plan, for any reach and number of nodes."""

    run: StreamRun
    shape: tuple[int, ...]
    """Of an example."""
    classes: int
    examples: int
    """In an epoch."""
    measure: bool
    _costs: dict[tuple[object, ...], StreamCosts] = field(default_factory=dict)

    @classmethod
    def of(cls, run: StreamRun, measure: bool) -> Planner:
        """The data is read only where its sizes are not known. LayerlineError where it is missing."""
        known = published_sizes(run.dataset)
        if known is None:
            data = load_set(run)
            assert isinstance(data, TextSet)
            return cls(run, (data.context,), data.num_classes, data.windows, measure)
        shape, classes, examples = known
        return cls(run, shape, classes, examples - (held_out(examples) if run.validation else 0), measure)

    @property
    def blocks(self) -> int:
        """Of the network, and so the most nodes."""
        return model_of(self.run, self.shape, self.classes).reach.blocks

    @property
    def steps(self) -> int:
        """Minibatches of an epoch."""
        return math.ceil(self.examples / self.run.batch_size)

    def step_seconds(self, way: str, nodes: int, microbatches: int) -> float:
        """From a minibatch to the next, once the stream is steady. `way`: a reach, or `PIPELINE`."""
        from layerline.baselines.planning import division_of  # here: PyTorch's pipelines take seconds to import

        piped = way == PIPELINE
        reach = way if way.isdecimal() else "all"
        changes = {"reach": int(reach) if reach.isdecimal() else reach, "method": "1f1b" if piped else None}
        run = self.run.replace(nodes=nodes, microbatches=microbatches, **changes)
        model = model_of(run, self.shape, self.classes)
        world = world_of(run, bytes_per_second(LINK), seconds(LATENCY))
        costs = self._costs_of(model, way, nodes, microbatches)
        if piped:
            return simulate_method(division_of(model), costs, world, _STEADY).step_seconds
        return simulate_stream(stream_of(model), costs, world, _STEADY).step_seconds

    def _costs_of(self, model: StreamModel, *what: object) -> StreamCosts:
        """Measured once; how many nodes decides what has to be encoded."""
        if not self.measure:
            return costs_of(model, Machine())
        if what not in self._costs:
            stream = stream_of(model) if model.run.method is None else None
            self._costs[what] = measure_stream(model, stream)
        return self._costs[what]


def rates(planner: Planner, way: str, parts: int) -> list[str]:
    """Minibatches a second over one node per block and over two, with one microbatch and with more."""
    said = []
    for nodes in (planner.blocks, 2):
        for wanted in (1, parts):
            least = nodes if way == PIPELINE and wanted > 1 else 1
            microbatches = max(wanted, least)
            if way == PIPELINE and wanted == 1:
                said.append("–")
                continue
            rate = f"{1 / planner.step_seconds(way, nodes, microbatches):.3g}"
            said.append(rate if microbatches == wanted else f"{rate} ({microbatches})")
    return said
