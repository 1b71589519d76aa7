"""Command ``edgeslm-export sign``."""

from __future__ import annotations

import argparse
import getpass
import sys
from pathlib import Path

from edgeslm_export.cli.screen import print_json, print_line

from edgeslm.bundle.manifest import SIGNATURE
from edgeslm.errors import ExportError

SUMMARY = "sign a bundle with a key of your own"
EXAMPLE = "edgeslm-export sign smollm2-135m-int4 --key factory.key"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("bundle", type=Path, metavar="BUNDLE")
    command.add_argument(
        "--key", type=Path, required=True, metavar="FILE", help="private key (PEM, P-256, P-384 or P-521)"
    )
    command.add_argument(
        "--make-key",
        action="store_true",
        help="make that key first, and the public one that devices need, next to it (FILE with .pub)",
    )
    command.add_argument(
        "--passphrase-file", type=Path, metavar="FILE", help="file whose first line is the key's passphrase"
    )


def run(options: argparse.Namespace) -> None:
    """Signs a bundle and prints which public key devices need."""
    from edgeslm_export.bundle.sign import make_key, sign_bundle

    from edgeslm.bundle.manifest import load_bundle

    load_bundle(options.bundle)  # fails before a key is made
    if options.key.resolve().is_relative_to(options.bundle.resolve()):
        raise ExportError(f"{options.key}: a key doesn't belong into the bundle, which is copied to devices.")
    passphrase = passphrase_of(options.key, options.passphrase_file, is_new=options.make_key)
    public = make_key(options.key, passphrase) if options.make_key else None
    bundle = sign_bundle(options.bundle, options.key, passphrase)
    if options.json:
        made = {"public_key": str(public)} if public else {}
        signature = str(options.bundle / SIGNATURE)
        print_json({"bundle": str(options.bundle), "digest": bundle.digest, "signature": signature, **made})
        return
    if public:
        print_line(f"{options.key}: a new private key; keep it off the devices")
        print_line(f"{public}: its public key, for signing.keys of the devices")
    print_line(f"{options.bundle / SIGNATURE}: signs {bundle.digest}")


def passphrase_of(key: Path, file: Path | None = None, *, is_new: bool = False) -> bytes | None:
    """A key's passphrase, from a file or the terminal; None if it has none.

    :raises ExportError: nobody can be asked.
    """
    if file is not None:
        lines = file.read_bytes().splitlines()
        if not lines:
            raise ExportError(f"{file} is empty; write the passphrase into its first line.")
        return bytes(lines[0])
    if is_new or not key.is_file() or b"ENCRYPTED" not in key.read_bytes()[:4096]:
        return None
    if not sys.stdin.isatty():
        raise ExportError(f"{key} has a passphrase; name a file with it in --passphrase-file.")
    return getpass.getpass(f"passphrase of {key}: ").encode()
