from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path

import pytest
import torch

from layerline.reporting import environment
from layerline.reporting.environment import describe, table


def test_it_names_versions_and_machine_and_fits_json() -> None:
    facts = describe()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["torch"] == torch.__version__
    assert facts["python"].startswith(platform.python_version())
    assert 1 <= facts["cores"] <= (os.cpu_count() or 1)
    assert describe(threads=7)["threads"] == 7


def test_it_can_be_pasted_in_public() -> None:
    assert str(Path.home()) == "/" or str(Path.home()) not in table()


def test_the_table_has_one_line_per_fact() -> None:
    assert [line.split("  ")[0] for line in table().splitlines()] == [name.replace("_", " ") for name in describe()]


@pytest.mark.parametrize(
    ("cpuinfo", "model", "unit"),
    [
        ("processor: 0\nmodel name : Xeon\nflags : avx512_bf16 amx_bf16 avx2\n\nprocessor: 1\n", "Xeon", "amx_bf16"),
        ("processor: 0\nFeatures : fp asimd bf16\n", None, "bf16"),
    ],
)
def test_processors_say_whether_they_know_bf16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpuinfo: str, model: str | None, unit: str
) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(environment, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    facts = describe()
    assert unit in facts["bf16_units"]
    assert "avx2" not in facts["bf16_units"]
    assert model is None or facts["cpu"] == model


def test_a_system_that_tells_nothing_is_described_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_CPUINFO", tmp_path / "none")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delattr(os, "sysconf", raising=False)
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    facts = describe()
    assert facts["cpu"]
    assert facts["cores"] >= 1
    assert facts["memory_gib"] is None
    assert facts["git_commit"] is None


def test_the_commit_of_the_current_folder_with_a_mark_for_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert describe()["git_commit"] is None
    who = ["-c", "user.name=n", "-c", "user.email=e"]
    (tmp_path / "file").write_text("1")
    for command in (["init", "-q"], ["add", "file"], [*who, "commit", "-qm", "one"]):
        subprocess.run(["git", *command], check=True)
    commit = describe()["git_commit"]
    assert len(commit) == 40
    (tmp_path / "file").write_text("2")
    assert describe()["git_commit"] == f"{commit}-dirty"
