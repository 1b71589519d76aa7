"""Command reference: prints docs/reference/commands.md, with all commands and arguments, from the parsers.

PYTHONPATH=. .venv/bin/python scripts/commands.py >docs/reference/commands.md
"""

# ruff: noqa: SLF001
# argparse has no public list of arguments.
from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from edgeslm_export.cli import main as export_main

from edgeslm.cli import main as device_main

HEAD = """\
# Commands

`edgeslm` runs on devices and next to apps, `edgeslm-export` on a build machine. `scripts/commands.py`
generates this page from the parsers.

Every command has `--help` with an example, and `--debug`, which shows tracebacks. `--json` prints data for
programs. A failure is one sentence on standard error and exit status 1.
"""
COMMON = {"-h", "--debug"}
TABLE_HEAD = "| argument | meaning |\n|---|---|"

Parser = argparse.ArgumentParser


def parts(parser: Parser) -> Mapping[str, Parser]:
    """A parser's subcommands by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def value(action: argparse.Action) -> str:
    """Placeholder of an argument's value: ``CONFIG``, ``strict|balanced``; empty for a switch."""
    if action.nargs == 0:
        return ""
    if isinstance(action.metavar, tuple):
        return " ".join(action.metavar)
    if action.metavar is None and action.choices is not None:
        return "|".join(map(str, action.choices))
    name = action.metavar or action.dest.upper()
    return {"?": f"[{name}]", "*": f"[{name} ...]", "+": f"{name} ..."}.get(str(action.nargs), name)


def code(text: str) -> str:
    """Code in a table cell."""
    return "`" + text.replace("|", r"\|") + "`"


def arguments(parser: Parser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        hidden = action.help == argparse.SUPPRESS or isinstance(action, argparse._SubParsersAction)
        if not hidden and not COMMON & set(action.option_strings):
            yield action


def row(parser: Parser, action: argparse.Action, one_of: str) -> str:
    name = f"{', '.join(action.option_strings)} {value(action)}".strip()
    about = parser._get_formatter()._expand_help(action) if action.help else ""
    if action.option_strings and action.required:
        about = f"{about} (required)".strip()
    about = (about + one_of).strip().replace("|", r"\|").replace(str(Path.home()), "~")
    return f"| {code(name)} | {about} |".replace("  ", " ")


def alternatives(parser: Parser) -> dict[argparse.Action, str]:
    """Notes on arguments of which exactly one must be given."""
    found = {}
    for group in parser._mutually_exclusive_groups:
        names = [action.option_strings[0] for action in group._group_actions if action.option_strings]
        if group.required and len(names) > 1:
            said = f" ({' or '.join(code(name) for name in names)} is required)"
            found.update(dict.fromkeys(group._group_actions, said))
    return found


def section(parser: Parser, level: int) -> Iterator[str]:
    """A command's section, then those of its subcommands."""
    yield f"{'#' * level} {parser.prog}\n"
    yield f"{parser.description}\n"
    if parts(parser):
        for part in parts(parser).values():
            yield from section(part, level + 1)
        return
    example = (parser.epilog or "").removeprefix("example: ")
    yield f"```sh\n{example}\n```\n"
    said = alternatives(parser)
    own = sorted(arguments(parser), key=lambda action: bool(action.option_strings))
    if own:
        rows = [row(parser, action, said.get(action, "")) for action in own]
        yield "\n".join([TABLE_HEAD, *rows]) + "\n"


def program(parser: Parser) -> Iterator[str]:
    yield f"## {parser.prog}\n"
    rows = []
    for part in parts(parser).values():
        anchor = part.prog.replace(" ", "-")
        rows.append(f"| [{part.prog}](#{anchor}) | {part.description} |")
    yield "\n".join(["| command | does |\n|---|---|", *rows]) + "\n"
    for part in parts(parser).values():
        yield from section(part, 3)


def page() -> str:
    return "\n".join([HEAD, *program(device_main._parser()), *program(export_main._parser())])


if __name__ == "__main__":
    os.environ.pop("XDG_DATA_HOME", None)  # a default depends on it
    sys.stdout.write(page())
