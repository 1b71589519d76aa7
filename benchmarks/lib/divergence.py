"""Quantization loss of bundles and of llama.cpp's files of the same weights, on the same tokens.

    python benchmarks/quality/quantization.py bundles --weights
    edgeslm-export model MOVED.gguf OUT
    python benchmarks/quality/quantization.py bundles BUNDLE... [--source GGUF] [--tokens 4096] [--json]

The weights are the starter's, or those of another GGUF (``--source``), and a copy that computes the same but
lies off the 4-bit grid (``lib/offgrid.py``). ``--weights`` writes both as GGUFs to export, prints where, and
stops. A bundle of either is known by its manifest, or named (``moved=BUNDLE``). The texts are three kinds
(``lib/texts.py``) and, with ``--text``, the beginning of another file; the reference is one float model
(``lib/float_reference.py``). llama.cpp with unquantized weights is a row too: its divergence is the error of
the comparison, and above a bound the run ends. The importance matrix is measured on the tokens on which our
exports calibrate.

Prints the machine, a table, then one JSON line; ``--json`` prints that line alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeslm_export import starter
from edgeslm_export.evaluate.fidelity import Comparison, bundle_logits
from edgeslm_export.evaluate.llama_cpp import gguf_logits
from edgeslm_export.graph.decode_graph import READS, keep_part
from edgeslm_export.jobs.optimum_env import cache_folder
from edgeslm_export.models.decoder import CALIBRATION_TOKENS
from edgeslm_export.sources.checkpoint import examine_local
from edgeslm_export.sources.corpus import calibration_rows, public_corpus
from edgeslm_export.sources.wheel_data import Packages

from benchmarks.lib import llama, offgrid, texts
from benchmarks.lib.losses import Row, by_frequency, compare, report, table
from benchmarks.lib.machine import processor
from edgeslm.bundle.manifest import Manifest, file_digest, load_bundle, verify_bundle
from edgeslm.errors import EdgeslmError

if TYPE_CHECKING:
    from edgeslm_export.evaluate.fidelity import Logits

COPIES: Final = ("plain", "moved")
TYPES: Final = ("Q4_0", "Q4_K_M", "Q4_K_M+importance")
IMPORTANCE: Final = "+importance"
"""Behind a type: with an importance matrix, of ``CALIBRATION_TOKENS`` tokens."""
TOKENS: Final = 4096
MOST_OFF: Final = 1e-3
"""Divergence of llama.cpp with unquantized weights above which the comparison says nothing."""

Say = Callable[[str], None]


@dataclass(slots=True)
class Text:
    """Sequences of tokens, and the float model's logits [all tokens, vocabulary] for them (a mapped file)."""

    sequences: list[list[int]]
    reference: Logits


@dataclass(slots=True)
class Measurement:
    """One run: where its files lie, the texts by name, and the rows so far."""

    folder: Path
    threads: int
    say: Say
    source: Path
    texts: dict[str, Text] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def add(
        self,
        copy: str,
        name: str,
        size: int,
        types: dict[str, int],
        logits: Callable[[Sequence[Sequence[int]]], Iterable[Logits]],
    ) -> Row:
        figures = {}
        for text_name, text in self.texts.items():
            comparison, at = Comparison(), 0
            for tokens, rows in zip(text.sequences, logits(text.sequences), strict=True):
                comparison.add(text.reference[at : at + len(tokens)], rows, tokens)
                at += len(tokens)
            figures[text_name] = comparison.figures()
        row = Row(copy, name, size, types, figures)
        self.rows.append(row)
        self.say(f"  {', '.join(filter(None, (copy, name)))}: {next(iter(figures.values()))['kl_mean']:.4f}")
        return row

    def add_gguf(self, copy: str, name: str, file: Path) -> Row:
        return self.add(
            copy,
            name,
            file.stat().st_size,
            by_frequency(llama.tensor_types(file)),
            lambda sequences: gguf_logits(file, sequences, self.threads),
        )

    def add_bundle(self, copy: str, folder: Path, name: str = "") -> Row:
        """:param name: of the row; by default the folder's."""
        size = sum(file.stat().st_size for file in folder.iterdir())  # a GGUF has its tokenizer in it too
        return self.add(
            copy,
            name or folder.resolve().name,
            size,
            matrix_types(folder),
            lambda sequences: bundle_logits(folder, sequences, self.threads),
        )


def float_file(folder: Path, copy: str) -> Path:
    """Where the unquantized weights of a copy are kept."""
    return folder / (f"moved-{offgrid.SEED}.f32.gguf" if copy == "moved" else f"{copy}.f32.gguf")


def importance_file(folder: Path, copy: str) -> Path:
    """Where a copy's importance matrix is kept."""
    return folder / f"{copy}.importance.npz"


def make_weights(folder: Path, source: Path, copies: Sequence[str]) -> None:
    """Writes the float files of the copies, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    for copy in copies:
        if not float_file(folder, copy).is_file():
            scales = offgrid.scales_of(source) if copy == "moved" else None
            offgrid.write_floats(source, float_file(folder, copy), scales)


def which(named: str, folder: Path, source: Path) -> tuple[str, Path]:
    """Copy and folder of an argument: ``BUNDLE``, or ``moved=BUNDLE`` for one that was made of the same
    weights in another file.

    :raises SystemExit: see ``copy_of``.
    """
    copy, equals, path = named.partition("=")
    if equals and copy in COPIES:
        check_decoder(Path(path))
        return copy, Path(path)
    return copy_of(Path(named), folder, source), Path(named)


def check_decoder(bundle: Path) -> Manifest:
    """:raises SystemExit: it is no sound decoder bundle."""
    try:
        loaded = load_bundle(bundle)
        verify_bundle(loaded)
    except EdgeslmError as error:
        raise SystemExit(str(error)) from None
    if loaded.manifest.kind != "decoder":
        raise SystemExit(f"{bundle} is a bundle of kind {loaded.manifest.kind}; name decoders.")
    return loaded.manifest


def copy_of(bundle: Path, folder: Path, source: Path) -> str:
    """Which of the two weights a bundle was made of, by the digest in its manifest.

    :raises SystemExit: neither, or it is no sound decoder bundle.
    """
    made_of = check_decoder(bundle).source
    files = [("plain", source), *((copy, float_file(folder, copy)) for copy in COPIES)]
    for copy, file in files:
        if file.is_file() and made_of.revision == f"sha256:{file_digest(file)}":
            return copy
    raise SystemExit(
        f"{bundle} was made of {made_of.id}, neither {source.name} nor a file that --weights makes; write "
        f"{'= or '.join(COPIES)}= before its name if it holds the same weights."
    )


def matrix_types(folder: Path) -> dict[str, int]:
    """How many matrices of a bundle's graph have which bits and group size; a shared one counts once."""
    import onnx

    graph = onnx.load(str(folder / "model.onnx"), load_external_data=False).graph
    keep_part(graph, READS)
    kinds: dict[str, str] = {}
    stored = {weights.name for weights in graph.initializer if len(weights.dims) > 1}
    for node in graph.node:
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        for name in stored.intersection(node.input):
            if node.op_type == "MatMulNBits" and name == node.input[1]:
                zero_points = len(node.input) > 3 and node.input[3] != ""
                kinds[name] = f"{'u' * zero_points}int{attributes['bits']}/{attributes['block_size']}"
            elif node.op_type == "MatMulIntegerToFloat" and name == node.input[1]:
                kinds[name] = "int8/row"
            elif node.op_type == "GatherBlockQuantized" and name == node.input[0]:
                kinds.setdefault(name, f"int{attributes.get('bits', 4)}/{attributes['block_size']}")
            elif node.op_type in ("MatMul", "Gather", "Gemm"):
                kinds[name] = "float"
    return by_frequency(kinds.values())


def read_texts(run: Measurement, args: argparse.Namespace, packages: Packages, work: Path) -> None:
    """Fills ``run.texts`` with the float model's logits, and measures importance if a type asks for it."""
    from benchmarks.lib.float_reference import FloatModel

    run.say("Reading with the float model.")
    architecture = examine_local(run.source, "decoder").architecture
    model = FloatModel(run.source, work / "checkpoint", run.threads, architecture)
    try:
        sequences = texts.read_texts(run.folder, model.tokenizer, model.encode, args.tokens)
        if args.text:
            sequences["text"] = texts.read_sequences(args.text, model.encode, args.tokens)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    for name, chunks in sequences.items():
        run.texts[name] = Text(chunks, mapped_logits(model, chunks, work / f"{name}.f32"))
    if any(kind.endswith(IMPORTANCE) for kind in args.types):
        corpus = public_corpus(packages)
        rows = calibration_rows(model.tokenizer, corpus.calibration, corpus.conversations, CALIBRATION_TOKENS)
        importance = model.importance(rows)
        for copy in args.copies:
            scales = offgrid.scales_of(run.source) if copy == "moved" else {}
            seen = {name: offgrid.move_squares(name, squares, scales) for name, squares in importance.items()}
            llama.save_importance(seen, importance_file(run.folder, copy))


def mapped_logits(model: Any, sequences: Sequence[Sequence[int]], file: Path) -> Logits:
    """The float model's logits [all tokens, vocabulary]. A file, not memory: 4,096 tokens of the starter take
    0.8 GB."""
    import numpy as np

    shape = (sum(map(len, sequences)), model.vocabulary)
    mapped = np.memmap(file, np.float32, "w+", shape=shape)
    at = 0
    for tokens in sequences:
        mapped[at : at + len(tokens)] = model.logits(tokens)
        at += len(tokens)
    return mapped


def measure_baselines(run: Measurement, copies: Sequence[str], types: Sequence[str]) -> None:
    """llama.cpp's rows. :raises SystemExit: unquantized, it isn't where the float model is."""
    for copy in copies:
        source = float_file(run.folder, copy)
        row = run.add_gguf(copy, "llama.cpp F32", source)
        for name, figures in row.figures.items():
            if figures["kl_mean"] > MOST_OFF:
                raise SystemExit(
                    f"llama.cpp with the float weights of {copy} is {figures['kl_mean']} off the float model "
                    f"on {name}, above {MOST_OFF}: the comparison would say nothing."
                )
        for kind in types:
            file = run.folder / f"{copy}.{kind}.{llama.installed_version()}.gguf"
            plain = kind.removesuffix(IMPORTANCE)
            llama.make_file(source, file, plain, importance_file(run.folder, copy) if plain != kind else None)
            run.add_gguf(copy, f"llama.cpp {kind}", file)


def cost_card(args: argparse.Namespace, run: Measurement) -> dict[str, Any]:
    """What was measured on what: a figure without it says nothing."""
    return {
        "weights": run.source.name,
        "moved": f"log s of deviation {offgrid.DEVIATION}, seed {offgrid.SEED}",
        "texts": {name: sum(map(len, text.sequences)) for name, text in run.texts.items()},
        "sequence_tokens": texts.CHUNK,
        "importance_tokens": CALIBRATION_TOKENS,
        "threads": args.threads,
        "machine": platform.machine(),
        "processor": processor(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("edgeslm", "onnxruntime-genai", "onnxruntime", "torch")},
        llama.PACKAGE: llama.installed_version(),
    }


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="What quantization costs: bundles beside llama.cpp's files of the same weights.",
        epilog="Example: python quantization.py bundles .edgeslm/starter/smollm2-135m-int4",
    )
    parser.add_argument("bundles", nargs="*", metavar="BUNDLE")
    parser.add_argument("--source", type=Path, help="a GGUF (default: the starter's)")
    parser.add_argument(
        "--copies", default=",".join(COPIES), help="which weights to measure (default %(default)s)"
    )
    parser.add_argument("--weights", action="store_true", help="make the GGUFs, say where, and stop")
    parser.add_argument("--text", type=Path, help="a text file of yours, measured too")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of each text (default %(default)s)")
    parser.add_argument("--types", default=",".join(TYPES), help="of llama.cpp (default %(default)s)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--folder",
        type=Path,
        default=cache_folder() / "quality",
        help="for files, 8 bytes a weight (default %(default)s)",
    )
    parser.add_argument("--from", dest="packages", type=Path, help="take the wheels from this folder")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    args = parser.parse_args(argv)
    args.types = [kind for kind in args.types.split(",") if kind]
    for kind in args.types:
        if kind.removesuffix(IMPORTANCE) not in llama.FILE_TYPES:
            parser.error(f"--types: there is no {kind}; choose of {', '.join(llama.FILE_TYPES)}")
    args.copies = args.copies.split(",")
    if unknown := set(args.copies) - set(COPIES):
        parser.error(f"--copies: there is no {', '.join(sorted(unknown))}; choose of {', '.join(COPIES)}")
    if args.source is not None and not args.source.is_file():
        parser.error(f"--source: {args.source} is not a file")
    if args.tokens < texts.CHUNK:
        parser.error(f"--tokens must be at least {texts.CHUNK}")
    if args.text is not None and not args.text.is_file():
        parser.error(f"--text: {args.text} is not a file")
    if args.threads < 1:
        parser.error("--threads must be at least 1")
    return args


def measure(args: argparse.Namespace, folder: Path, source: Path, say: Say) -> None:
    packages = Packages(say, folder=args.packages)
    texts.fetch(folder, packages)
    bundles = [which(bundle, folder, source) for bundle in args.bundles]
    if not llama.installed_version():
        args.types = []
        say(f"llama.cpp is not installed (pip install '.[bench]' brings {llama.PACKAGE}): ours alone.")
    run = Measurement(folder, args.threads, say, source)
    with tempfile.TemporaryDirectory(prefix="run-", dir=folder) as work:
        read_texts(run, args, packages, Path(work))
        card = cost_card(args, run)
        for key, value in card.items():
            say(f"{key:>18}  {value}")
        if args.types:
            measure_baselines(run, args.copies, args.types)
        for copy, bundle in bundles:
            run.add_bundle(copy, bundle)
        run.texts.clear()
    run.rows.sort(key=lambda row: COPIES.index(row.copy))
    ratios = compare(run.rows)
    say("")
    say(table(run.rows, ratios))
    print(json.dumps({"benchmark": "quality", **card, **report(run.rows, ratios)}))


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_arguments(argv)

    def say(text: str) -> None:
        if not args.json:
            print(text, flush=True)

    try:
        source = args.source or starter.Maker(say, packages=args.packages).model_origin().path
        folder = args.folder / source.stem.lower()
        make_weights(folder, source, args.copies)
        if args.weights:
            print(*(float_file(folder, copy) for copy in args.copies), sep="\n")
        else:
            measure(args, folder, source, say)
    except (EdgeslmError, RuntimeError) as error:
        sys.exit(str(error))
