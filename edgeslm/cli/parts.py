"""Subcommands, such as ``edgeslm models list``: the same help and options for each."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

Act = Callable[..., Any]


def add_parser(
    parts: argparse._SubParsersAction[argparse.ArgumentParser], name: str, about: str, example: str
) -> argparse.ArgumentParser:
    """:param about: what it does, as a clause that begins with a small letter."""
    return parts.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_part(
    parts: argparse._SubParsersAction[argparse.ArgumentParser], name: str, act: Act, about: str, example: str
) -> argparse.ArgumentParser:
    """The parser of a part; its arguments have ``act``, which does it."""
    part = add_parser(parts, name, about, example)
    # Suppressed, or its default would take the place of what was said before the part.
    part.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    part.set_defaults(act=act)
    return part


def whole_number(text: str) -> int:
    """An argparse type: a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number above 0")
    return int(text)
