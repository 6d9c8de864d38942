"""An argument parser whose errors are ours: one sentence, a suggestion, exit status 2."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from layerline.errors import UsageError, did_you_mean


class Parser(argparse.ArgumentParser):
    """Raises UsageError instead of leaving the process; no abbreviated flags; `layerline COMMAND USAGE` on top."""

    def __init__(self, command: str, usage: str, summary: str) -> None:
        super().__init__(
            prog=f"layerline {command}",
            usage=f"layerline {command} {usage}",
            description=summary,
            allow_abbrev=False,
            add_help=False,
            formatter_class=_Formatter,
        )
        self.words: Sequence[str] = ()
        """The command line, for a command whose flags depend on it."""
        self.elsewhere: Mapping[str, str] = {}
        """Flags that other command lines have, and what to say of them."""
        self._positionals.title = "arguments"
        self.add_argument("-h", "--help", action="help", help="Show this text.")

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """The arguments; UsageError for anything that does not fit."""
        arguments, unknown = self.parse_known_intermixed_args(list(words))
        for word in unknown:
            if word.startswith("-"):
                flag = word.partition("=")[0]
                if flag in self.elsewhere:
                    raise UsageError(self.elsewhere[flag], hint=f"see: {self.prog} --help")
                raise self._wrong(f"unknown flag {flag}{self._nearest(flag)}")
        if unknown:
            raise self._wrong(f"'{unknown[0]}' is one argument too many")
        return arguments

    def error(self, message: str) -> NoReturn:
        """What argparse calls when it cannot go on."""
        raise self._wrong(message.removeprefix("argument "))

    def _wrong(self, what: str) -> UsageError:
        return UsageError(what, hint=f"see: {self.prog} --help")

    def _nearest(self, flag: str) -> str:
        """The flag that may have been meant, or nothing: a list of all flags would be too long to read."""
        known = [name for name in self._option_string_actions if name.startswith("--")]
        guess = did_you_mean(flag, known)
        return guess if "did you mean" in guess else ""


class _Formatter(argparse.HelpFormatter):
    """All names of a flag first, then what it takes: `--beta, --objective.loss.beta X`."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value: Any = self._format_args(action, action.dest.upper())
        return f"{', '.join(action.option_strings)} {value}"
