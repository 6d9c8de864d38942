from __future__ import annotations

import re
from typing import Any

import pytest

from layerline.data.catalog import TEXT_NAMES, dataset_names
from layerline.presets.presets import PRESETS
from layerline.reporting.citations import citations
from layerline.stream_run import StreamRun
from reporting.tiny import tiny_run

LOCAL = {"objective": {"kind": "local-cross-entropy"}, "readout": {"kind": "all-heads"}}

FEDAVG = {
    "objective": {"kind": "backprop"},
    "readout": {"kind": "last-head"},
    "order": "chapters",
    "schedule": {"kind": "federated", "average": True},
}


def keys(**changes: Any) -> list[str]:
    return re.findall(r"^@\w+\{(\w+),$", citations(tiny_run(**changes)), re.MULTILINE)


@pytest.mark.parametrize(
    ("changes", "there", "absent"),
    [
        ({}, {"hinton2022forward", "kingma2014adam", "lecun1998gradient", "layerline"}, {"aktemur2024going"}),
        ({"order": "chapters"}, {"hinton2022forward", "aktemur2024going"}, {"gong2025mono"}),
        ({"negatives": {"kind": "adaptive"}}, {"aktemur2024going"}, set()),
        ({"objective": {"kind": "forward-forward", "loss": {"kind": "symba"}}}, {"lee2023symba"}, set()),
        (LOCAL, {"aktemur2024going", "gong2025mono"}, {"hinton2022forward", "lee2023symba"}),
        (FEDAVG, {"mcmahan2016communication"}, {"aktemur2024going", "hinton2022forward", "gong2025mono"}),
        ({"dataset": "kmnist"}, {"clanuwat2018deep"}, {"lecun1998gradient"}),
        ({"rate": {"kind": "constant"}}, set(), {"loshchilov2016sgdr", "aktemur2024going"}),
        ({"dataset": "./mine.npz"}, {"kingma2014adam"}, {"lecun1998gradient"}),
    ],
)
def test_a_run_cites_what_it_used_and_nothing_else(changes: dict[str, Any], there: set[str], absent: set[str]) -> None:
    found = keys(**changes)
    assert len(found) == len(set(found))
    assert there <= set(found)
    assert not absent & set(found)


DIGITS = {
    "kind": "stream",
    "dataset": "digits",
    "network": {"kind": "conv", "widths": [4, 4]},
    "rate": {"kind": "constant"},
}
BACKPROP = {"reach": "all", "nodes": 2, "microbatches": 2}


@pytest.mark.parametrize(
    ("changes", "there"),
    [
        ({}, {"belilovsky2019decoupled"}),
        ({"timing": {"kind": "async"}}, {"belilovsky2019decoupled", "belilovsky2021decoupled"}),
        (
            {"boundary": {"kind": "vq", "dims": 2}},
            {"belilovsky2019decoupled", "belilovsky2021decoupled", "oord2017neural"},
        ),
        ({"head": {"kind": "man"}}, {"belilovsky2019decoupled", "su2024momentum"}),
        ({"head": {"kind": "auglocal"}}, {"belilovsky2019decoupled", "ma2024scaling"}),
        ({"smoothing": 0.1}, {"belilovsky2019decoupled", "szegedy2015rethinking"}),
        ({"reach": "all", "method": "plain"}, {"belilovsky2019decoupled"}),
        (BACKPROP | {"method": "ddp"}, {"belilovsky2019decoupled", "li2020pytorch"}),
        (BACKPROP | {"method": "gpipe"}, {"belilovsky2019decoupled", "huang2018gpipe"}),
        (BACKPROP | {"method": "1f1b"}, {"belilovsky2019decoupled", "harlap2018pipedream"}),
        (BACKPROP | {"method": "interleaved-1f1b"}, {"belilovsky2019decoupled", "narayanan2021efficient"}),
        (BACKPROP | {"method": "zero-bubble"}, {"belilovsky2019decoupled", "qi2024zero"}),
    ],
)
def test_a_stream_cites_what_it_used_and_nothing_else(changes: dict[str, Any], there: set[str]) -> None:
    """The network of all these is that of the DGL paper."""
    found = re.findall(r"^@\w+\{(\w+),$", citations(StreamRun.from_dict(DIGITS | changes)), re.MULTILINE)
    assert set(found) == there | {"alpaydin1998optical", "layerline"}


@pytest.mark.parametrize("name", TEXT_NAMES)
def test_every_published_text_is_cited(name: str) -> None:
    preset = next(each for each in PRESETS if each.run.dataset == name)
    assert "karpathy2015char" in citations(preset.run)


@pytest.mark.parametrize("dataset", dataset_names())
def test_every_published_set_is_cited(dataset: str) -> None:
    assert len(keys(dataset=dataset)) == 1 + len(keys(dataset="./mine.npz"))


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_entries_are_well_formed(preset: Any) -> None:
    text = citations(preset.run)
    assert text.count("{") == text.count("}")
    assert text.endswith("}\n")
    for entry in text.split("\n\n"):
        assert re.match(r"@(article|misc|techreport|software)\{\w+,\n", entry)
        assert "title = {" in entry
