"""What belongs in a bug report: versions and the machine; no names of people, hosts or folders.

Every fact is looked up in the way its system offers, and is None where there is none.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("layerline", "torch", "numpy", "safetensors", "pydantic")
_CPUINFO = Path("/proc/cpuinfo")
_MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def describe(*, threads: int | None = None) -> dict[str, Any]:
    """Versions and machine. `threads`: the compute threads of a run; None: PyTorch's present number."""
    return {
        **{name: _version(name) for name in _PACKAGES},
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "threads": threads or torch.get_num_threads(),
        "bf16_units": _bf16_units(),
        "onednn": torch.backends.mkldnn.is_available(),
        "memory_gib": _memory_gib(),
        "gpu": _gpus(),
        "cuda": torch.version.cuda,
        "git_commit": _git_commit(),
    }


def table() -> str:
    """The same for people, one fact per line."""
    facts = describe()
    width = max(map(len, facts))
    return "\n".join(f"{name.replace('_', ' '):{width}}  {_words(value)}" for name, value in facts.items())


def _words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpuinfo() -> Mapping[str, str]:
    """The first processor's entry of Linux's list; empty elsewhere."""
    try:
        first = _CPUINFO.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def _cpu_model() -> str:
    if platform.system() == "Darwin" and (name := _output("sysctl", "-n", "machdep.cpu.brand_string")):
        return name
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _bf16_units() -> list[str]:
    """The processor's instructions for bfloat16 (AVX-512, AMX, ARM); without them bf16-mixed is slow on the CPU."""
    info = _cpuinfo()
    units = {flag for flag in f"{info.get('flags', '')} {info.get('Features', '')}".split() if "bf16" in flag}
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    units |= {name for name, there in capabilities.items() if there is True and "bf16" in name}
    if platform.system() == "Darwin" and _output("sysctl", "-n", "hw.optional.arm.FEAT_BF16") == "1":
        units.add("bf16")
    return sorted(units)


def _memory_gib() -> float | None:
    """Memory of the machine, or what the container may use of it."""
    try:
        sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (AttributeError, ValueError, OSError):
        return None
    for name in _MEMORY_LIMITS:
        try:
            sizes.append(int(Path(name).read_text()))
        except (OSError, ValueError):
            continue
    return round(min(sizes) / 2**30, 1)


def _gpus() -> list[str]:
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append(f"{properties.name} ({properties.total_memory / 2**30:.0f} GiB)")
    return found


def _git_commit() -> str | None:
    """The commit of the current folder's repository, "-dirty" with changes; None outside of one."""
    return _output("git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
