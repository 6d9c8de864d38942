"""Train deep networks layer by layer, across machines.

    result = layerline.train(layerline.Run(dataset="digits"))
    model = layerline.load("runs/digits/…")

The public names are these and no others. Each is imported when it is first used, so that `layerline --help` need not
wait for PyTorch; `__init__.pyi` says the same to type checkers, and a test holds the two equal.
"""

from __future__ import annotations

_HOMES = {
    "api": ("train", "resume", "load", "evaluate", "Result"),
    "base_run": ("Augment",),
    "run": ("Run",),
    "stream_run": ("StreamRun",),
    "presets.presets": ("preset",),
    "estimator": ("LayerlineClassifier",),
    "runtime.model": ("Model",),
    "data.dataset": ("Dataset", "Examples"),
    "data.arrays": ("from_arrays",),
    "data.catalog": ("load_dataset",),
    "data.labels": ("LabelInput",),
    "blocks.split": ("split_at", "split_into", "split_each"),
    "blocks.network": ("Mlp",),
    "blocks.conv": ("Conv", "Dni", "Vgg"),
    "blocks.resnet": ("ResNet",),
    "blocks.transformer": ("Transformer",),
    "blocks.cut": ("CutLayers", "CutCount", "CutAt"),
    "blocks.heads.image": ("MlpSrHead", "MlpHead", "CnnHead", "ConvHead", "PooledHead"),
    "blocks.heads.text": ("UnembeddingHead", "SharedUnembeddingHead"),
    "blocks.heads.ahead": ("AugLocalHead", "ManHead"),
    "blocks.linear": ("LinearReLU",),
    "blocks.normaliser": ("RmsNorm", "L2Norm", "NoNorm"),
    "negatives.labels": ("Fixed", "Random", "Adaptive", "Sampled"),
    "negatives.masks": ("MaskedHybrid",),
    "objectives.forward_forward": ("ForwardForward",),
    "objectives.local_cross_entropy": ("LocalCrossEntropy",),
    "objectives.backprop": ("Backprop",),
    "objectives.losses": ("Logistic", "SymBa", "SiluMargin"),
    "objectives.descent": ("Sgd", "AdamW"),
    "objectives.optimizer": ("Adam", "Constant", "CoolDown", "Cosine"),
    "readouts.readouts": ("Goodness", "Softmax", "LastHead", "AllHeads"),
    "schedules.timing": ("Sync", "Async", "Recorded"),
    "transport.boundary": ("Bf16Outputs", "Int8Outputs", "VectorQuantised"),
    "transport.codecs": ("Fp32", "Bf16", "Int8"),
    "errors": ("LayerlineError", "UsageError", "DataError", "CheckpointError", "Stopped"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("layerline")
        except PackageNotFoundError:  # a source tree that is not installed
            return "unknown"
    if name not in _HOME:
        raise AttributeError(f"module 'layerline' has no attribute '{name}'")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"layerline.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
