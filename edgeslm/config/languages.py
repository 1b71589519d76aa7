"""Languages that a collection's documents may be in, by ISO 639-1 code."""

from __future__ import annotations

from typing import Literal

# fmt: off
Language = Literal[
    "ca", "cs", "da", "de", "el", "en", "es", "et", "eu", "fi", "fr", "ga",
    "hu", "it", "lt", "nl", "no", "pl", "pt", "ro", "ru", "sv", "tr",
]
# fmt: on
"""English, and the languages with a stemmer in ``edgeslm.knowledge.documents.languages``."""
