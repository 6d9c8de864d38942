"""What the tests of all displays need: something to draw on, and what holds of each."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

import layerline
from layerline.events import Event
from layerline.reporting.console import Display
from layerline.reporting.nodes import NodesDisplay


def console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    """A terminal or a file, and what is written to it."""
    text = io.StringIO()
    return Console(file=text, force_terminal=terminal, width=100, legacy_windows=False, _environ={}), text


def shows_nothing_when_quiet(kind: type[Display | NodesDisplay], *events: Event) -> None:
    """On a terminal, too."""
    where, text = console(terminal=True)
    with kind(console=where, quiet=True) as display:
        for event in events:
            display(event)
    assert text.getvalue() == ""


def gives_the_terminal_back(kind: type[Display | NodesDisplay], *events: Event) -> None:
    """After an error, the cursor is shown again."""
    where, text = console(terminal=True)

    def interrupted() -> None:
        with kind(console=where) as display:
            for event in events:
                display(event)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert text.getvalue().endswith("\x1b[?25h")


def in_a_pseudo_terminal(words: Sequence[str], columns: int) -> str:
    """What the command line shows there until it ends well, frame after frame, without its colours."""
    environment = os.environ | {"PYTHONPATH": str(Path(layerline.__file__).parents[1]), "COLUMNS": str(columns)}
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "layerline", *words]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment | {"TERM": "xterm"}
    ) as ran:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # nobody has the other end any more
            while part := os.read(ours, 65536):
                shown += part
        os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert ran.returncode == 0, text
    return text
