"""The repository itself: what the package says of itself is true, and its tools find what they are for."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import settings_page
from check_links import broken_links, main
from layerline.base_run import BaseRun
from layerline.cli.components import settings_below
from layerline.run import Run
from layerline.stream_run import StreamRun

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def test_the_installed_package_is_this_version(project: dict[str, Any]) -> None:
    assert importlib.metadata.version("layerline") == project["version"]


def test_the_changelog_has_a_place_for_the_next_change() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert headings[0] == "[Unreleased]"


def test_the_licence_is_the_one_the_package_declares(project: dict[str, Any]) -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert project["license"] == "Apache-2.0"
    assert re.match(r"\s*Apache License\s+Version 2\.0, January 2004", text)
    assert "END OF TERMS AND CONDITIONS" in text


def test_every_requirement_is_pinned_to_a_version_it_allows(project: dict[str, Any]) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert all(name == canonicalize_name(name) for name in pins)
    extras = project["optional-dependencies"].values()
    for text in [*project["dependencies"], *(text for extra in extras for text in extra)]:
        requirement = Requirement(text)
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier, text


def test_make_refuses_an_old_python_and_says_what_to_do(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.1" && exit\nexit 1\n', encoding="utf-8")
    old.chmod(0o755)
    venv = tmp_path / "venv"
    made = subprocess.run(
        ["make", "demo", f"PYTHON={old}", f"VENV={venv}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert made.returncode != 0
    assert "needs Python 3.11 or newer" in made.stderr
    assert "Python 3.9.1" in made.stderr
    assert "make demo PYTHON=" in made.stderr
    assert not venv.exists()


@pytest.mark.parametrize(("page", "root"), [("settings.md", Run), ("stream-settings.md", StreamRun)])
def test_the_pages_of_settings_are_those_the_settings_give(page: str, root: type[BaseRun]) -> None:
    text = (settings_page.REFERENCE / page).read_text(encoding="utf-8")
    assert text == settings_page.page(page), "write it again: python tools/settings_page.py"
    assert all(f"| `{path}` |" in text or f"`{path}` is one of" in text for path in settings_below(root))
    assert all(f"`{name}`" in text or f"## {name}" in text for name in root.model_fields if name != "kind")


class TestLinks:
    def test_links_that_lead_somewhere_pass(self, tmp_path: Path) -> None:
        (tmp_path / "docs").mkdir()
        (tmp_path / "docs" / "page.md").write_text(
            "# A page: `code`, and more!\n## Twice\n## Twice\n[up](../README.md) [root](/README.md)\n", encoding="utf-8"
        )
        (tmp_path / "README.md").write_text(
            "# Title\n"
            "[a](docs/page.md) [b](docs/page.md#a-page-code-and-more) [c](docs/page.md#twice-1) [d](#title)\n"
            "[e](docs) [f](https://example.org/none) [g][name] `[not a link](nowhere.md)`\n\n"
            "[name]: docs/page.md\n"
            "```\n[not a link](nowhere.md)\n```\n",
            encoding="utf-8",
        )
        assert list(broken_links(tmp_path)) == []
        assert main([str(tmp_path)]) == 0

    @pytest.mark.parametrize(
        ("text", "wrong"),
        [
            ("[a](missing.md)", "missing.md does not exist"),
            ("![a](missing.svg)", "missing.svg does not exist"),
            ('<img alt="a" src="missing.png">', "missing.png does not exist"),
            ("[a]: missing.md", "missing.md does not exist"),
            ("[a](<missing page.md>)", "missing page.md does not exist"),
            ("[![badge](missing.svg)](README.md)", "missing.svg does not exist"),
            ("[a](#nowhere)", "#nowhere: no such heading"),
            ("[a](README.md#nowhere)", "README.md#nowhere: no such heading"),
            ("[a](../outside.md)", "../outside.md leads out of the repository"),
        ],
    )
    def test_a_broken_link_is_named_with_its_place(
        self, text: str, wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "README.md").write_text(f"# Title\n\n{text}\n", encoding="utf-8")
        assert list(broken_links(tmp_path)) == [f"README.md:3: {wrong}"]
        assert main([str(tmp_path)]) == 1
        assert wrong in capsys.readouterr().out
