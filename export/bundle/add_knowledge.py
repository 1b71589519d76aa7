"""A bundle with document collections in it: what a model answers from travels and is signed with it.

A collection in a bundle is read where it lies and never written (``edgeslm.knowledge.index.database``).
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
    """Makes the bundle ``out`` of another one and of collections, each under its own name.

    It is another bundle, with a digest of its own: adapters made for the one don't fit the other, nor do the
    vectors that the one made, and it isn't signed.

    :raises BundleError: ``bundle`` is none, or damaged.
    :raises KnowledgeError: a collection can't be read.
    :raises ExportError: two files would have one name, or ``out`` is there already; nothing is left behind.
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
                if copy.remove_expired():  # nobody does it there
                    copy.shrink()
        fields = type(made_of.manifest).model_fields.keys() - {"files"}
        write_manifest(stage, {name: getattr(made_of.manifest, name) for name in fields})
    return load_bundle(out)
