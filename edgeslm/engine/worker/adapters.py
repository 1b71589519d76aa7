"""LoRA adapters of one loaded decoder; a call names the folder of the adapter to use."""

from __future__ import annotations

from typing import Any

import onnxruntime_genai as og

from edgeslm.bundle.manifest import Bundle, check_adapter, load_bundle, verify_bundle
from edgeslm.engine.calls import Adapters
from edgeslm.errors import BundleError, InternalError


class LoadedAdapters:
    """The loaded adapter bundles of one base model.

    :param model: the ``onnxruntime_genai.Model`` that was loaded from the base model's graph for adapters.
    :param adapters: maps the folder of each adapter bundle to the required digest of this bundle; None
        accepts any bundle.
    :raises BundleError: a bundle isn't an adapter, is damaged, or was trained for another base model.
    """

    def __init__(self, model: Any, base: Bundle, adapters: Adapters) -> None:
        self._loaded = og.Adapters(model)
        self._names = set[str]()
        for path, digest in adapters.items():
            bundle = check_adapter(load_bundle(path, digest), base)
            verify_bundle(bundle)
            section = bundle.manifest.adapter
            file = path / section.weights if section is not None else path
            try:
                self._loaded.load(str(file), str(path))
            except Exception as error:  # the runtime raises RuntimeError and others
                raise BundleError(f"{file}: onnxruntime-genai can't load it: {error}") from None
            self._names.add(str(path))

    def activate(self, generator: Any, name: str) -> None:
        """Makes a new generator use an adapter; ``name`` is the adapter's folder."""
        if name not in self._names:
            raise InternalError(f"the adapter {name} was not loaded with this model")
        generator.set_active_adapter(self._loaded, name)
