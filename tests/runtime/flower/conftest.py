from __future__ import annotations

import pytest


@pytest.fixture
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who this process is, as Flower's processes know it: messages cannot be made without."""
    from flwr.supercore.task_identity import TaskIdentity

    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
