"""Downgrade protection: for each bundle name, records the highest proven release and refuses lower releases.

A release is proven once a bundle of this release is active and not on trial. An old bundle's signature stays
valid, so checking signatures doesn't prevent a downgrade.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from pathlib import Path

from edgeslm.bundle.manifest import Bundle
from edgeslm.errors import BundleError
from edgeslm.storage.atomic_json import write_record
from edgeslm.storage.file_ownership import is_ours

log = logging.getLogger("edgeslm.update")


class Releases:
    def __init__(self, file: Path) -> None:
        self._file = file

    def check(self, bundle: Bundle) -> None:
        """:raises BundleError: the bundle's release is lower than the highest release recorded for the
        bundle's name."""
        name, release = bundle.manifest.name, bundle.manifest.release or 0
        highest = self._read().get(name, 0)
        if release < highest:
            raise BundleError(
                f"{name}: release {release} is older than release {highest}, which was active here; "
                "to use it anyway: edgeslm models activate --older"
            )

    def note(self, bundle: Bundle) -> None:
        """Records the release of a proven bundle, unless a higher release is recorded. :raises OSError: a
        disk error."""
        name, release = bundle.manifest.name, bundle.manifest.release or 0
        known = self._read()
        if release > known.get(name, 0):
            write_record(self._file, {**known, name: release})

    def _read(self) -> dict[str, int]:
        with contextlib.suppress(FileNotFoundError):
            try:
                with self._file.open("rb") as stream:
                    if not is_ours(os.fstat(stream.fileno())):
                        log.warning("%s can be written by other users and is ignored", self._file)
                        return {}
                    found = json.load(stream)
            except FileNotFoundError:
                raise
            except (OSError, ValueError, RecursionError) as error:
                log.error("%s can't be read, so older bundles are accepted: %s", self._file, error)
                return {}
            if isinstance(found, dict):
                return {name: number for name, number in found.items() if isinstance(number, int)}
        return {}
