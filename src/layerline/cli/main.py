"""`layerline COMMAND …`: parse, call the Python interface, print.

Standard output carries results, standard error everything else. The exit status is 0, 1 (it failed), 2 (the request
was wrong), 75 or 130 (stopped, and resumable), 143 (terminated, nothing to resume). No user error shows a traceback,
unless LAYERLINE_DEBUG=1 asks for it.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import traceback
from collections.abc import Sequence

import layerline
from layerline.cli.parser import Parser
from layerline.errors import Elsewhere, LayerlineError, Stopped, UsageError, did_you_mean
from layerline.runtime.stop import INTERRUPTED, TERMINATED, Terminated, ending_at_once, ending_on_sigterm

# Each is a module of its own in `commands`, read only when it is called: PyTorch takes seconds to import.
_COMMANDS = {
    "train": ("PRESET|RUN.toml [--config FILE.toml] [flags]", "train a network"),
    "resume": ("RUN_DIR [flags]", "go on with a run that was stopped or killed"),
    "evaluate": ("RUN_DIR [--dataset NAME] [flags]", "measure a trained network on a test set"),
    "predict": ("RUN_DIR IMAGE… [flags]", "say which class images belong to"),
    "plan": ("PRESET|RUN.toml|--blocks N [flags]", "show who trains what when, and what it would take"),
    "reproduce": ("pff-tables --epochs E [flags]", "run the cells of the PFF paper's tables"),
    "presets": ("[flags]", "list the named runs"),
    "env": ("[flags]", "print what belongs in a bug report"),
    "cite": ("[PRESET|RUN_DIR]", "print the BibTeX of the methods a run uses"),
}

_PIPE_CLOSED = 141  # as a shell reports SIGPIPE


def main(words: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without "×" shows "?" instead
    try:
        with ending_on_sigterm():
            _dispatch(list(sys.argv[1:] if words is None else words))
            sys.stdout.flush()
    except Elsewhere:
        return 0
    except LayerlineError as error:
        _report(error)
        return error.exit_status
    except SystemExit as done:  # argparse, after --help
        return int(done.code or 0)
    except KeyboardInterrupt:
        _ended("interrupted")
        return INTERRUPTED
    except Terminated as terminated:
        _ended(str(terminated) or "terminated")
        return TERMINATED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python's own last flush fails again, with a message
        return _PIPE_CLOSED
    return 0


def _dispatch(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return
    if words[0] == "--version":
        print(f"layerline {layerline.__version__}")
        return
    name, *rest = words
    if name not in _COMMANDS:
        what, known = ("flag", ("--help", "--version")) if name.startswith("-") else ("command", tuple(_COMMANDS))
        raise UsageError(f"there is no {what} '{name}'{did_you_mean(name, known)}", hint="see: layerline --help")
    usage, summary = _COMMANDS[name]
    with ending_at_once(silent=_launched()):
        command = importlib.import_module(f"layerline.cli.commands.{name}")
    parser = Parser(name, usage, f"{summary[0].upper()}{summary[1:]}.")
    parser.words = rest
    command.add_arguments(parser)
    command.run(parser.read(rest))


def _help() -> str:
    width = max(map(len, _COMMANDS))
    lines = [f"  {name:{width}}  {summary}" for name, (_, summary) in _COMMANDS.items()]
    return "\n".join(
        [
            "usage: layerline COMMAND …",
            "",
            "Train deep networks layer by layer, across machines.",
            "",
            *lines,
            "",
            "Start with:            layerline train digits",
            "All about a command:   layerline COMMAND --help",
            "The version:           layerline --version",
        ]
    )


def _launched() -> bool:
    """A worker: its launcher reports."""
    return bool(os.environ.get("LAYERLINE_ERRORS"))


def _ended(how: str) -> None:
    if not _launched():
        print(f"\n{how}", file=sys.stderr)


def _report(error: LayerlineError) -> None:
    if os.environ.get("LAYERLINE_DEBUG", "0") not in ("", "0"):
        traceback.print_exception(error)
    if _launched():
        from layerline.runtime.launch import leave_error

        leave_error(error)
        return
    print(error if isinstance(error, Stopped) else f"error: {error}", file=sys.stderr)
