"""The BibTeX of the methods and data a run used, so that credit goes where it belongs."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from layerline.negatives.labels import Adaptive
from layerline.objectives.descent import AdamW
from layerline.objectives.forward_forward import ForwardForward
from layerline.objectives.local_cross_entropy import LocalCrossEntropy
from layerline.objectives.losses import SymBa
from layerline.objectives.optimizer import CoolDown, Cosine
from layerline.run import Run
from layerline.runs import AnyRun
from layerline.schedules.federated import Federated
from layerline.stream_run import StreamRun

_Entry = tuple[str, str, dict[str, str]]  # kind, key, fields


def citations(run: AnyRun) -> str:
    """BibTeX entries, the method first, then the optimizer, the data and Layerline itself."""
    used = {key: (kind, key, fields) for kind, key, fields in _used(run)}
    entries = [f"@{kind}{{{key},\n{_fields(fields)}\n}}" for kind, key, fields in used.values()]
    return "\n\n".join(entries) + "\n"


def _used(run: AnyRun) -> Iterator[_Entry]:
    yield from _of_stream(run) if isinstance(run, StreamRun) else _of_chapters(run)
    if isinstance(run.rate, Cosine):
        yield _COSINE
    if run.dataset in _DATA:
        yield _DATA[run.dataset]
    yield "software", "layerline", {"title": "Layerline", "author": "{The Layerline contributors}"} | _version()


def _of_stream(run: StreamRun) -> Iterator[_Entry]:
    if run.reach == 1:
        yield _DGL
    elif run.reach != "all":
        yield _INTERLOCKING
    if run.network.kind in _NETWORKS:
        yield _NETWORKS[run.network.kind]
    if isinstance(run.optimizer, AdamW):
        yield _ADAMW


def _of_chapters(run: Run) -> Iterator[_Entry]:
    objective = run.objective
    if isinstance(objective, ForwardForward):
        yield _FORWARD_FORWARD
        if isinstance(objective.loss, SymBa):
            yield _SYMBA
    local = isinstance(objective, LocalCrossEntropy)
    adaptive = objective.needs_negatives and isinstance(run.negatives, Adaptive)
    chapters = run.order == "chapters" and not objective.joins_blocks
    if local or adaptive or chapters or isinstance(run.rate, CoolDown):
        yield _PFF
    if run.beside == "fedavg" or (isinstance(run.schedule, Federated) and run.schedule.average):
        yield _FEDAVG
    if local:
        yield _MONO_FORWARD
    yield _ADAM


def _fields(fields: dict[str, str]) -> str:
    return ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())


def _version() -> dict[str, str]:
    try:
        return {"version": version("layerline")}
    except PackageNotFoundError:
        return {}


def _preprint(key: str, number: str, year: str, authors: str, title: str) -> _Entry:
    journal = f"arXiv preprint arXiv:{number}"
    fields = {"title": title, "author": authors, "journal": journal, "year": year, "eprint": number}
    return "article", key, fields | {"archiveprefix": "arXiv"}


_FORWARD_FORWARD = _preprint(
    "hinton2022forward",
    "2212.13345",
    "2022",
    "Hinton, Geoffrey",
    "The {Forward-Forward} Algorithm: Some Preliminary Investigations",
)
_PFF = _preprint(
    "aktemur2024going",
    "2404.08573",
    "2024",
    'Aktemur, Ege and Zorlutuna, Ege and Bilgili, Kaan and B{\\"o}k, Tacettin Emre and Yanikoglu, Berrin '
    'and Mutluergil, S{\\"u}ha Orhun',
    "Going {Forward-Forward} in Distributed Deep Learning",
)
_FEDAVG = _preprint(
    "mcmahan2016communication",
    "1602.05629",
    "2016",
    'McMahan, H. Brendan and Moore, Eider and Ramage, Daniel and Hampson, Seth and Ag{\\"u}era y Arcas, Blaise',
    "Communication-Efficient Learning of Deep Networks from Decentralized Data",
)
_SYMBA = _preprint(
    "lee2023symba",
    "2303.08418",
    "2023",
    "Lee, Heung-Chang and Song, Jeonggeun",
    "{SymBa}: Symmetric Backpropagation-Free Contrastive Learning with {Forward-Forward} Algorithm "
    "for Optimizing Convergence",
)
_MONO_FORWARD = _preprint(
    "gong2025mono",
    "2501.09238",
    "2025",
    "Gong, James and Li, Bruce and Abdulla, Waleed",
    "{Mono-Forward}: Backpropagation-Free Algorithm for Efficient Neural Network Training Harnessing Local Errors",
)
_ADAM = _preprint(
    "kingma2014adam",
    "1412.6980",
    "2014",
    "Kingma, Diederik P. and Ba, Jimmy",
    "Adam: A Method for Stochastic Optimization",
)
_ADAMW = _preprint(
    "loshchilov2017decoupled",
    "1711.05101",
    "2017",
    "Loshchilov, Ilya and Hutter, Frank",
    "Decoupled Weight Decay Regularization",
)
_DGL = _preprint(
    "belilovsky2019decoupled",
    "1901.08164",
    "2019",
    "Belilovsky, Eugene and Eickenberg, Michael and Oyallon, Edouard",
    "Decoupled Greedy Learning of {CNNs}",
)
_INTERLOCKING = _preprint(
    "gomez2020interlocking",
    "2010.04116",
    "2020",
    "Gomez, Aidan N. and Key, Oscar and Perlin, Kuba and Gou, Stephen and Frosst, Nick and Dean, Jeff and Gal, Yarin",
    "Interlocking Backpropagation: Improving depthwise model-parallelism",
)
_NETWORKS: dict[str, _Entry] = {
    "conv": _DGL,
    "dni": _preprint(
        "jaderberg2016decoupled",
        "1608.05343",
        "2016",
        "Jaderberg, Max and Czarnecki, Wojciech Marian and Osindero, Simon and Vinyals, Oriol and Graves, Alex "
        "and Silver, David and Kavukcuoglu, Koray",
        "Decoupled Neural Interfaces using Synthetic Gradients",
    ),
    "vgg": _preprint(
        "simonyan2014very",
        "1409.1556",
        "2014",
        "Simonyan, Karen and Zisserman, Andrew",
        "Very Deep Convolutional Networks for Large-Scale Image Recognition",
    ),
    "resnet": _preprint(
        "he2015deep",
        "1512.03385",
        "2015",
        "He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian",
        "Deep Residual Learning for Image Recognition",
    ),
    "transformer": _preprint(
        "vaswani2017attention",
        "1706.03762",
        "2017",
        "Vaswani, Ashish and Shazeer, Noam and Parmar, Niki and Uszkoreit, Jakob and Jones, Llion and Gomez, Aidan N. "
        "and Kaiser, Lukasz and Polosukhin, Illia",
        "Attention Is All You Need",
    ),
}
"""What the architectures are from, by kind."""
_COSINE = _preprint(
    "loshchilov2016sgdr",
    "1608.03983",
    "2016",
    "Loshchilov, Ilya and Hutter, Frank",
    "{SGDR}: Stochastic Gradient Descent with Warm Restarts",
)
_CIFAR: _Entry = (
    "techreport",
    "krizhevsky2009learning",
    {
        "title": "Learning Multiple Layers of Features from Tiny Images",
        "author": "Krizhevsky, Alex",
        "institution": "University of Toronto",
        "year": "2009",
    },
)
_DATA: dict[str, _Entry] = {
    "mnist": (
        "article",
        "lecun1998gradient",
        {
            "title": "Gradient-Based Learning Applied to Document Recognition",
            "author": "LeCun, Yann and Bottou, L{\\'e}on and Bengio, Yoshua and Haffner, Patrick",
            "journal": "Proceedings of the IEEE",
            "volume": "86",
            "number": "11",
            "pages": "2278--2324",
            "year": "1998",
        },
    ),
    "fashion-mnist": _preprint(
        "xiao2017fashion",
        "1708.07747",
        "2017",
        "Xiao, Han and Rasul, Kashif and Vollgraf, Roland",
        "{Fashion-MNIST}: a Novel Image Dataset for Benchmarking Machine Learning Algorithms",
    ),
    "kmnist": _preprint(
        "clanuwat2018deep",
        "1812.01718",
        "2018",
        "Clanuwat, Tarin and Bober-Irizar, Mikel and Kitamoto, Asanobu and Lamb, Alex and Yamamoto, Kazuaki "
        "and Ha, David",
        "Deep Learning for Classical {Japanese} Literature",
    ),
    "cifar-10": _CIFAR,
    "cifar-100": _CIFAR,
    "digits": (
        "misc",
        "alpaydin1998optical",
        {
            "title": "Optical Recognition of Handwritten Digits",
            "author": "Alpaydin, E. and Kaynak, C.",
            "howpublished": "UCI Machine Learning Repository",
            "year": "1998",
        },
    ),
}
