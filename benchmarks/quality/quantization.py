"""How much does a bundle lose by quantization, compared with llama.cpp and other builders?

    python benchmarks/quality/quantization.py COMMAND ...

    bundles       KL divergence and perplexity of bundles and of llama.cpp's files of the same weights
    classifiers   probabilities of int8 classifiers of several encoder families, and of their float models
    presets       ``edgeslm-export model`` against all presets of onnxruntime-genai's builder

Each command prints a table, then one JSON line. ``COMMAND --help`` lists its options.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.lib.commands import run_subcommand

COMMANDS: Final = {
    "bundles": "divergence",
    "classifiers": "classifier_families",
    "presets": "presets",
}

if __name__ == "__main__":
    run_subcommand(__doc__, COMMANDS)
