"""What the server does with answers that make no sense, and with what goes wrong in itself."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr")

from flwr.app import ConfigRecord, Message, RecordDict

from layerline.federated_server import serve
from layerline.runtime.flower.app import read
from layerline.runtime.flower.federation import Asked, Link, Lost, Refused, Reply
from layerline.runtime.flower.mail import Parcel
from layerline.runtime.flower.participant import Order


@pytest.mark.parametrize(
    "said",
    [
        {"facts": "{"},
        {"facts": "7"},
        {"error": "no hint", "status": 1},
        {"error": "a word for a number", "hint": "", "status": "one"},
        {"headers": [b"one"]},
        {"headers": [b"one"], "bodies": ["of none"]},
    ],
)
def test_an_answer_that_makes_no_sense_is_a_refusal(said: dict[str, Any], identity: None) -> None:
    """It was an error of the server, which ended without a word to those who wait for it."""
    reply = read(Message(RecordDict({"said": ConfigRecord(said)}), 1, "train.task"))
    assert isinstance(reply, Refused)
    assert reply.status == 1
    assert "cannot be read" in reply.what


class Broken(Link):
    """A way to nobody."""

    def members(self) -> set[int]:
        raise OSError("no space left")

    def hello(self, member: int) -> str:
        raise NotImplementedError

    def account(self, member: int, run: str) -> str:
        raise NotImplementedError

    def order(self, member: int, asked: Asked, order: Order) -> str:
        raise NotImplementedError

    def judge(self, member: int, asked: Asked, gone: Sequence[int], finished: Sequence[Parcel]) -> str:
        raise NotImplementedError

    def pull(self, names: Iterable[str]) -> list[tuple[str, Reply | Lost | Refused]]:
        raise NotImplementedError


def test_whatever_ends_the_server_is_said_in_the_folder(tmp_path: Path) -> None:
    """Else the command line would wait for two minutes, and could only say that the server is silent."""
    with pytest.raises(OSError, match="no space left"):
        serve(Broken(), {"preset": "federated-digits", "out-dir": str(tmp_path / "run"), "quiet": 1})
    said = json.loads((tmp_path / "run" / "flower" / "error.json").read_text())
    assert said["status"] == 1
    assert said["error"] == "the server failed: OSError: no space left"
    assert "superlink.log" in said["hint"]
