"""What stands in `benchmarks/`, for tests: those are files to run, not a package."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType


def load(name: str) -> ModuleType:
    """The module `benchmarks/NAME.py`."""
    spec = spec_from_file_location(name, Path(__file__).parent.parent / "benchmarks" / f"{name}.py")
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    sys.modules[name] = module  # where its data classes look for themselves
    spec.loader.exec_module(module)
    return module
