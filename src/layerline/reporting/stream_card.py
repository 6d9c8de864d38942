"""What the model card of a run that trained in a stream says otherwise than others.

How its blocks learned, what crossed between them, and of a text what its numbers and tokens are.
"""

from __future__ import annotations

from typing import Any

from layerline.blocks.architecture import OwnLayers
from layerline.schedules.timing import Async, Recorded
from layerline.stream_run import StreamRun
from layerline.transport.boundary import Plain, VectorQuantised


def what_it_is(run: StreamRun) -> str:
    """The first sentences."""
    kind = "language model" if run.reads_text else "classifier"
    said = [f"A {kind} trained in a stream with Layerline: {_rule(run)}.", *_pace(run), *_crossing(run)]
    network = "modules of its author's own" if isinstance(run.network, OwnLayers) else run.network.kind
    return "\n".join([*said, f"The network: {network}"])


def text_data(values: dict[str, Any], about: dict[str, Any]) -> str:
    """The data of a language model."""
    lines = [f"Trained on the first nine tenths of {values['dataset']}."]
    if "shape" in about and "classes" in about:
        (context,) = about["shape"]
        lines.append(
            f"It reads up to {context} {values['tokens']} and scores the {len(about['classes'])} that may follow."
        )
    return "## Data\n\n" + "\n".join(lines)


def text_accuracy(values: dict[str, Any]) -> str:
    """What a language model is judged by."""
    lines = ["On the last tenth of the text:", "", "| readout | bits per character | accuracy |", "|---|---|---|"]
    for name, bits in values["bits_per_character"].items():
        chosen = " (chosen)" if name == values["readout"] else ""
        lines.append(f"| {name}{chosen} | {bits:.4f} | {100 * values['readouts'][name]:.2f} % |")
    return "## Accuracy\n\n" + "\n".join(lines)


def text_use(path: str, values: dict[str, Any]) -> str:
    """How to use a language model."""
    python = [
        "import layerline",
        "",
        f'model = layerline.load("{path}")',
        f"scores = model.scores(tokens)  # {values['tokens']} as numbers, int64 [B, T]; of the next, [B, T, classes]",
        "model.classes                  # what each number means",
    ]
    return "## Use\n\n```python\n" + "\n".join(python) + f"\n```\n\n```sh\nlayerline evaluate {path}\n```"


def _rule(run: StreamRun) -> str:
    if run.reach == "all":
        by = f", computed by PyTorch as {run.method} on {run.nodes} nodes" if run.method not in (None, "plain") else ""
        return f"by backprop through all blocks{by}"
    if run.reach == 1:
        return "every block by a loss at its own output (decoupled greedy learning)"
    ahead = f"{run.reach - 1} block{'s' * (run.reach > 2)} ahead"
    return f"every block by a loss {ahead} (interlocking backprop)"


def _pace(run: StreamRun) -> list[str]:
    timing = run.timing
    if isinstance(timing, Recorded):
        return ["Blocks ran freely, in the order that another run recorded."]
    if not isinstance(timing, Async):
        return []
    slowed = f", steps taking {', '.join(f'{each:g}' for each in timing.slowdowns)} times as long" * bool(
        timing.slowdowns
    )
    return [f"Blocks ran freely, each with a replay buffer of {timing.buffer}{slowed}."]


def _crossing(run: StreamRun) -> list[str]:
    boundary = run.boundary
    if isinstance(boundary, Plain):
        return []
    coded: str = boundary.kind
    if isinstance(boundary, VectorQuantised):
        coded = f"indices of {boundary.codes} codes for every {boundary.dims} channels, which are part of the model"
    return [f"Outputs cross to the next block as {coded}."]
