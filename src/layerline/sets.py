"""The data that a run reads: labelled examples, or a text for a language model."""

from __future__ import annotations

from pathlib import Path

from layerline.blocks.transformer import Transformer
from layerline.data.catalog import load_dataset
from layerline.data.download import Progress
from layerline.data.text import load_text
from layerline.data.text_set import AnySet, TextSet
from layerline.runs import AnyRun
from layerline.stream_run import StreamRun


def load_set(
    run: AnyRun,
    name: str | None = None,
    *,
    data_dir: str | Path | None = None,
    download: bool = True,
    progress: Progress | None = None,
) -> AnySet:
    """The set of that name (None: the run's own), as the run reads it. Raises as `load_dataset` and `load_text` do."""
    name = name or run.dataset
    if isinstance(run, StreamRun) and isinstance(run.network, Transformer):
        text = load_text(name, tokens=run.tokens, data_dir=data_dir, download=download, progress=progress)
        return TextSet(text, run.network.context, name)
    return load_dataset(name, data_dir=data_dir, download=download, progress=progress)
