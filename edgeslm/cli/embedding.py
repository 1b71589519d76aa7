"""Embedding for commands: runs an encoder bundle in a child process, as a function from texts to vectors."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from edgeslm.bundle.manifest import load_bundle
from edgeslm.engine.calls import Embed
from edgeslm.engine.host.process import EngineProcess
from edgeslm.errors import BundleError


class Embedding:
    """Starts the engine with the first text, and stops it at the end of the ``with`` block.

    :raises BundleError: the bundle at ``path`` is not an encoder.
    """

    def __init__(self, path: Path) -> None:
        self.bundle = load_bundle(path.absolute())
        if not self.bundle.manifest.embeds:
            kind = self.bundle.manifest.kind
            raise BundleError(f"{path}: a bundle of kind {kind}, where an encoder is needed")
        self._runner = asyncio.Runner()
        self._process: EngineProcess | None = None

    def __enter__(self) -> Embedding:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if self._process is not None:
            self._runner.run(self._process.stop())
        self._runner.close()

    def __call__(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """Embeds texts: returns one vector per text. The end of a text that is too long is cut off.

        :raises EdgeslmError: the engine can't be started, or crashed.
        """
        if self._process is None:
            process = EngineProcess(self.bundle.path, digest=self.bundle.digest)
            self._runner.run(process.start())
            self._process = process
        call = Embed(tuple(texts), overflow="head")
        return self._runner.run(self._process.call(call)).vectors
