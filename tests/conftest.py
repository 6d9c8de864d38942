"""What all tests share: those marked `data` need the folder of real data sets."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("LAYERLINE_DATA"):
        return
    skip = pytest.mark.skip(reason="LAYERLINE_DATA names no folder of data sets")
    for item in items:
        if item.get_closest_marker("data"):
            item.add_marker(skip)
