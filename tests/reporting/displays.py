"""What the tests of all displays need: something to draw on, and what holds of each."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

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
