"""``edgeslm completion``: prints a shell's completion of commands, options, choices and file names.

The script is made from the argparse parsers and is complete in itself: completing runs no Python.
"""

# ruff: noqa: SLF001
# argparse has no public list of arguments.
from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from edgeslm.cli.screen import say

SUMMARY = "print the completion of commands and options for a shell"
EXAMPLE = "edgeslm completion bash > ~/.local/share/bash-completion/completions/edgeslm"
SHELLS = ("bash", "zsh", "fish")

_BASH = """\
PROGRAM_words() { COMPREPLY=($(compgen -W "$1" -- "$cur")); }
PROGRAM_files() { compopt -o default; }
PROGRAM() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} at=NAME word
    if [ "$cur" = "=" ]; then cur=; fi
    if [ "$prev" = "=" ]; then prev=${COMP_WORDS[COMP_CWORD-2]}; fi
    COMPREPLY=()
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
CASES
}
complete -F PROGRAM NAME"""
_ZSH = """\
#compdef NAME
PROGRAM_words() { compadd -- ${=1}; }
PROGRAM_files() { _files; }
PROGRAM() {
    local cur=$words[CURRENT] prev=$words[CURRENT-1] at=NAME word
    if [[ $cur == --*=* ]]; then prev=${cur%%=*}; compset -P '*='; fi
    for word in $words[2,CURRENT-1]; do
CASES
}
if [ "$funcstack[1]" = PROGRAM ]; then PROGRAM "$@"; else compdef PROGRAM NAME; fi"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("shell", choices=SHELLS, help="the shell")


def run(arguments: argparse.Namespace) -> int:
    say(completion(arguments.program, arguments.shell))
    return 0


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script that completes the parser's program in ``shell``, which is one of :data:`SHELLS`."""
    if shell == "fish":
        return "\n".join([f"complete -c {parser.prog} -f", *_fish(parser, [])])
    frame = {"bash": _BASH, "zsh": _ZSH}[shell]
    program = "_" + parser.prog.replace("-", "_")
    cases = "\n".join("    " + line for line in _cases(list(_parsers(parser))))
    return frame.replace("CASES", cases).replace("PROGRAM", program).replace("NAME", parser.prog)


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for part in _parts(parser).values():
        yield from _parsers(part)


def _parts(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Subcommands by name."""
    found = (one.choices for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    return dict(next(found, {}))


def _options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [one for one in parser._actions if one.option_strings and one.help != argparse.SUPPRESS]


def _choices(parser: argparse.ArgumentParser) -> list[str]:
    """Subcommands, and choices of positional arguments."""
    return [
        str(one) for action in parser._actions if not action.option_strings for one in action.choices or ()
    ]


def _is_file(action: argparse.Action) -> bool:
    return action.type is Path or "SRC" in str(action.metavar)


def _takes_files(parser: argparse.ArgumentParser) -> bool:
    return any(_is_file(one) for one in parser._actions if not one.option_strings)


def _cases(parsers: list[argparse.ArgumentParser]) -> Iterator[str]:
    """In the language that bash and zsh share: which command it is, then its option's values or its words."""
    paths = "|".join(f'"{one.prog}"' for one in parsers[1:])
    yield from (f'    case "$at $word" in {paths}) at="$at $word" ;; esac', "done", 'case "$at $prev" in')
    for one in parsers:
        for option in _options(one):
            names = "|".join(f'"{one.prog} {name}"' for name in option.option_strings)
            if option.choices:
                values = " ".join(map(str, option.choices))
                yield f'    {names}) PROGRAM_words "{values}"; return ;;'
            elif option.nargs != 0:
                yield f"    {names}) {'PROGRAM_files; ' if _is_file(option) else ''}return ;;"
    yield from ("esac", 'case "$at $cur" in')
    for one in reversed(parsers):  # those of subcommands first
        words = [name for option in _options(one) for name in option.option_strings]
        yield f'    "{one.prog} -"*) PROGRAM_words "{" ".join(words)}" ;;'
        rest = "PROGRAM_files" if _takes_files(one) else f'PROGRAM_words "{" ".join(_choices(one) or words)}"'
        yield f'    "{one.prog} "*) {rest} ;;'
    yield "esac"


def _fish(parser: argparse.ArgumentParser, path: list[str]) -> Iterator[str]:
    parts = _parts(parser)
    seen = "; and ".join(f"__fish_seen_subcommand_from {name}" for name in path)
    here = f"complete -c {parser.prog.split()[0]} -n {_quote(seen or '__fish_use_subcommand')}"
    if path and parts:
        here = f"{here[:-1]}; and not __fish_seen_subcommand_from {' '.join(parts)}'"
    for option in _options(parser):
        names = [
            f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.option_strings
        ]
        value = "-x" if option.nargs != 0 else ""
        if option.choices:
            value = f"-x -a {_quote(' '.join(map(str, option.choices)))}"
        elif _is_file(option):
            value = "-r -F"
        about = parser._get_formatter()._expand_help(option) if option.help else ""
        yield " ".join(filter(None, [here, *names, value, f"-d {_quote(about)}"]))
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from (
                f"{here} -a {one.dest} -d {_quote(one.help or '')}" for one in action._choices_actions
            )
        elif action.choices and not action.option_strings:
            yield f"{here} -a {_quote(' '.join(map(str, action.choices)))}"
    if _takes_files(parser):
        yield f"{here} -F"
    for name, part in parts.items():
        yield from _fish(part, [*path, name])


def _quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
