"""Collections in bundles: adds document collections to a bundle, so that they are shipped and signed with it.

Devices open a bundle's collections read-only (``edgeslm.knowledge.index.database``).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from edgeslm_export.bundle.writer import staged, write_manifest

from edgeslm.bundle.manifest import Bundle, load_bundle, verify_bundle
from edgeslm.errors import ExportError
from edgeslm.knowledge.index.collection import Collection
from edgeslm.knowledge.index.database import find_collection, write_copy


def ship(bundle: Path, collections: Sequence[Path], out: Path) -> Bundle:
    """Writes the bundle ``out``: a copy of ``bundle`` with ``collections``, each of which keeps its file
    name.

    The copy is unsigned, and its digest differs from that of ``bundle``. So adapters for ``bundle``, and
    vectors that ``bundle`` computed, don't fit the copy.

    :raises BundleError: the folder ``bundle`` isn't a bundle or is damaged.
    :raises KnowledgeError: a collection can't be read.
    :raises ExportError: two files have the same name, or ``out`` exists; nothing is left behind.
    """
    made_of = load_bundle(bundle)
    verify_bundle(made_of)
    taken = {entry.path for entry in made_of.manifest.files}
    with staged(out) as stage:
        for name in sorted(taken):
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle / name, stage / name)
        for file in map(find_collection, collections):
            if file.name in taken:
                raise ExportError(f"{bundle} has a {file.name} already; give {file} another name.")
            taken.add(file.name)
            write_copy(file, stage / file.name)
            with Collection(stage / file.name, writes=True) as copy:
                if copy.encoder is not None and copy.encoder.digest == made_of.digest:
                    raise ExportError(
                        f"{file} was embedded by {bundle}, which would be another encoder with it inside; "
                        "ship it in the bundle of another model."
                    )
                if copy.remove_expired():  # a node can't: it is read-only there
                    copy.shrink()
        fields = type(made_of.manifest).model_fields.keys() - {"files"}
        write_manifest(stage, {name: getattr(made_of.manifest, name) for name in fields})
    return load_bundle(out)
