"""``vmaforensics completion``: a script that lets the shell complete verbs, options and rules."""

from __future__ import annotations

import argparse
import sys

from vmaforensics.errors import ExitCode

_FILES = {"IMAGE", "FILE", "A", "B"}  # what metavars of paths are called
_FOLDERS = {"DIR"}


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "completion",
        help="print a completion script for bash, zsh or fish",
        description="Print a script for the shell that completes verbs, options, rules and file names.",
    )
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    sys.stdout.write(script(args.shell))
    return ExitCode.OK


def script(shell: str) -> str:
    """The completion script for ``shell``: bash, zsh or fish."""
    import shtab

    from vmaforensics.cli.main import build_parser

    parser = build_parser()
    (verbs,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for verb in verbs.choices.values():
        _tell_paths(verb)
    _tell_rules(verbs.choices["explain"])
    text: str = shtab.complete(parser, shell=shell)
    return text.rstrip("\n") + "\n"


def _tell_paths(parser: argparse.ArgumentParser) -> None:
    import shtab

    for action in parser._actions:
        if action.metavar in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.metavar in _FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]


def _tell_rules(parser: argparse.ArgumentParser) -> None:
    """The parser at hand only describes, so a list of rules here does not refuse what `explain` can answer."""
    from vmaforensics.checks.registry import all_rules

    for action in parser._actions:
        if action.dest == "rule":
            action.choices = [rule.id for rule in all_rules()]
