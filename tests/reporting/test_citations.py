from __future__ import annotations

import re
from typing import Any

import pytest

from layerline.data.catalog import dataset_names
from layerline.presets.presets import PRESETS
from layerline.reporting.citations import citations
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
