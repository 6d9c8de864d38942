"""The model card: what the next person needs to know about a trained model, in one short page beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from layerline.blocks.architecture import OwnLayers
from layerline.blocks.network import Own
from layerline.objectives.forward_forward import ForwardForward
from layerline.reporting import stream_card
from layerline.reporting.beside_table import beside_cells
from layerline.run import Run
from layerline.runs import AnyRun
from layerline.stream_run import StreamRun


def model_card(run: AnyRun, values: dict[str, Any], run_dir: Path, about: dict[str, Any]) -> str:
    """Markdown. `values`: the content of result.json; `about`: of model.json, as far as there is one."""
    own, reads_text = isinstance(run.network, Own | OwnLayers), "bits_per_character" in values
    what = stream_card.what_it_is(run) if isinstance(run, StreamRun) else _what(run)
    parts = [
        f"# {'Language model' if reads_text else 'Classifier'} of {values['dataset']} (preset {values['preset']})",
        f"{what}; {values['parameters']:,} parameters.",
        stream_card.text_data(values, about) if reads_text else _data(values, about),
        stream_card.text_accuracy(values) if reads_text else _accuracy(values),
        stream_card.text_use(run_dir.as_posix(), values) if reads_text else _use(run_dir, run, own),
        _settings(run, own),
        _origin(values),
    ]
    return "\n\n".join(parts) + "\n"


def _what(run: Run) -> str:
    forward = isinstance(run.objective, ForwardForward)
    rule = "Forward-Forward" if forward else "local cross-entropy, a softmax head on every block"
    order = "all blocks on every minibatch" if run.order == "simultaneous" else "block after block, in chapters"
    trained = f"trained layer by layer with Layerline: {rule}; {order}; no gradient crosses a block"
    if run.objective.joins_blocks:
        trained = "trained with Layerline by backprop through the whole network"
    if isinstance(run.network, Own):
        network = "modules of its author's own"
    else:
        network = f"{len(run.network.widths)} blocks of Linear + ReLU, {' – '.join(map(str, run.network.widths))} units"
    return f"A classifier {trained}.\nThe network: {network}"


def _data(values: dict[str, Any], about: dict[str, Any]) -> str:
    lines = [f"Trained on the training set of {values['dataset']}."]
    if "shape" in about and "classes" in about:
        classes = [str(name) for name in about["classes"]]
        named = ", ".join(classes) if len(classes) <= 20 else f"{', '.join(classes[:20])} …"
        shape = " × ".join(map(str, about["shape"]))
        lines.append(f"An example is {shape}; the {len(classes)} classes are: {named}.")
    return "## Data\n\n" + "\n".join(lines)


def _accuracy(values: dict[str, Any]) -> str:
    if not values["readouts"]:
        return "## Accuracy\n\nThere was no held-out data to measure it on."
    held = values.get("validation_accuracy") is not None
    where = "the validation split; the test set was not read" if held else "the test set"
    lines = [f"On {where}:", "", "| readout | accuracy |", "|---|---|"]
    for name, value in values["readouts"].items():
        chosen = " (chosen)" if name == values["readout"] else ""
        lines.append(f"| {name}{chosen} | {100 * value:.2f} % |")
    return "## Accuracy\n\n" + "\n".join(lines + _beside(values.get("beside", [])))


def _beside(lines: list[dict[str, Any]]) -> list[str]:
    """FedAvg of backprop on the same shards, where it was trained."""
    if not lines:
        return []
    names, *rows = ["| " + " | ".join(row) + " |" for row in beside_cells(lines)]
    about = "FedAvg of backprop beside it, on the same shards; bytes of one participant:"
    return ["", about, "", names, "|---" * 7 + "|", *rows]


def _use(run_dir: Path, run: AnyRun, own: bool) -> str:
    path, network = run_dir.as_posix(), ", network=blocks" if own else ""
    python = [
        "import layerline",
        "",
        f'model = layerline.load("{path}"{network})',
        "classes = model.predict(examples)  # raw examples as in the training set: [B, *shape]",
        "scores = model.scores(examples)    # [B, classes], higher is more likely",
    ]
    text = "## Use\n\n```python\n" + "\n".join(python) + "\n```"
    if own:
        what = (
            "freshly made modules of the same kinds and sizes, as an `nn.Sequential` or in a list as they were trained"
        )
        return f"{text}\n\n`blocks`: {what}; their weights are overwritten."
    on = " --dataset SET" * run.has_own_data  # each node's own was for that node to read
    return text + f"\n\n```sh\nlayerline predict {path} IMAGE\nlayerline evaluate {path}{on}\n```"


def _settings(run: AnyRun, own: bool) -> str:
    lines = ["| setting | value |", "|---|---|"]
    for name, value in _flat(run.to_dict()):
        if not (own and name == "network.kind"):
            shown = str(value).lower() if isinstance(value, bool) else str(value)
            lines.append(f"| {name} | {shown.replace('|', chr(92) + '|')} |")
    return "## Settings\n\n" + "\n".join(lines)


def _flat(settings: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Tables in tables as dotted names, as they are written on the command line."""
    flat: list[tuple[str, Any]] = []
    for name, value in settings.items():
        flat += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return flat


def _origin(values: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in values["versions"].items())
    return (
        f"## Origin\n\nSeed {values['seed']}, {values['train_seconds']:.1f} s of training on {values['device']} with "
        f"{values['threads']} thread(s), {values['precision']}; finished {values['finished']}.\n"
        f"Versions: {versions}.\nSHA-256 of the weights: `{values['weights_sha256']}`."
    )
