"""Parsers of commands and subcommands (``edgeslm models list``), with uniform help and options."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeslm.errors import ConfigError

Act = Callable[..., Any]
HERE, SERVICE = Path("edgeslm.yaml"), Path("/etc/edgeslm/edgeslm.yaml")
"""Configurations that ``edgeslm init`` and ``install.sh`` write."""


def configuration(named: Path | None) -> Path:
    """The configuration file that a user named, or the usual one. :raises ConfigError: there is none."""
    if named is None and not HERE.exists() and not SERVICE.exists():
        raise ConfigError([f"There is neither {HERE} here nor {SERVICE}; name yours with --config"])
    return named or (HERE if HERE.exists() else SERVICE)


def add_parser(
    parts: argparse._SubParsersAction[argparse.ArgumentParser], name: str, about: str, example: str
) -> argparse.ArgumentParser:
    """Adds a command's parser. :param about: what the command does, as a clause in lower case."""
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
    """Adds a subcommand's parser, which sets ``arguments.act`` to ``act``."""
    part = add_parser(parts, name, about, example)
    # Suppressed, or its default would override a --debug before the subcommand.
    part.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    part.set_defaults(act=act)
    return part


def whole_number(text: str) -> int:
    """An argparse type: a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def json_object(text: str) -> dict[str, Any]:
    """An argparse type: a JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("not a JSON object")
    return value
