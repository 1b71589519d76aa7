"""Decoder export: quantizes a source, allocates bits, builds and measures graphs, and writes the bundle.

Steps that need torch or the inference library run in child processes (``quantize.worker``,
``builder_worker``, ``fidelity``, ``report_card``). This module runs the steps in order, chooses each matrix's
format from their results, and writes the manifest.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgeslm_export.bundle.writer import created_at, runtime_versions, staged, write_manifest, write_report
from edgeslm_export.evaluate.reference import UNQUANTIZED, gguf_types, study_task
from edgeslm_export.evaluate.report_card import measure_bundle
from edgeslm_export.graph.decode_graph import WRITES, join
from edgeslm_export.graph.fixed_scales import fix_scales
from edgeslm_export.graph.int8_cache import RANGES, cache_sizes, quantize_cache, wants_int8
from edgeslm_export.graph.last_logits import keep_last_logits
from edgeslm_export.graph.lora_graph import GRAPH, write_lora_graph
from edgeslm_export.graph.score_graph import GRAPH as SCORE_GRAPH
from edgeslm_export.graph.score_graph import write_score_graph
from edgeslm_export.jobs.checkpoint_notes import Notes
from edgeslm_export.jobs.device import CPU
from edgeslm_export.jobs.resources import bytes_a_weight, check_resources
from edgeslm_export.jobs.subprocess_job import OnProgress, run_module
from edgeslm_export.jobs.time_left import TimeLeft
from edgeslm_export.jobs.work_folder import kept_work, work_path
from edgeslm_export.models.export_cost import (
    BUILD,
    CHECK,
    QUANTIZE,
    SHARES,
    STUDY,
    disk_need,
    kind_of,
)
from edgeslm_export.quantize.bit_allocation import Placement, Unit
from edgeslm_export.quantize.formats import Format
from edgeslm_export.quantize.recipe import (
    EMBEDDING,
    Recipe,
    add_source_formats,
    add_spare_formats,
    builder_options,
    choices_of,
    formats_by_rule,
    left_by_gptq,
    shared_format,
    units_of,
    written_formats,
)
from edgeslm_export.quantize.targets import (
    BitSearch,
    Candidate,
    Goal,
    formats_in_use,
    likely_formats,
    weight_groups,
)
from edgeslm_export.sources import golden_tokens
from edgeslm_export.sources.checkpoint import SETTINGS, Origin, bundle_name
from edgeslm_export.sources.corpus import Corpus

from edgeslm.bundle.manifest import Manifest
from edgeslm.errors import ExportError

_NEEDED = ("model.onnx", "genai_config.json", "tokenizer.json", "tokenizer_config.json")

CALIBRATION_TOKENS = 16_384
_MISSED = "missed"
"""Name of the note that the likely formats missed the goal."""


@dataclass(frozen=True, slots=True)
class ExportOrder:
    """Options of an export. Without a ``corpus`` nothing can be calibrated or measured. The ``device``
    quantizes; what is measured by inference runs on the CPU."""

    recipe: Recipe
    goal: Goal = field(default_factory=Goal)
    corpus: Corpus | None = None
    device: str = CPU


def export_model(
    origin: Origin,
    out: Path,
    order: ExportOrder,
    *,
    on_progress: OnProgress | None = None,
    debug: bool = False,
) -> tuple[Manifest, dict[str, Any]]:
    """Makes the bundle ``out`` from ``origin``.

    An export that was interrupted or killed leaves a work folder next to ``out``. The same export goes on
    from there.

    :return: the bundle's manifest, and measurements of the finished bundle.
    :raises ExportError: a step failed or the goal was missed; nothing is left behind.
    """
    created = created_at(origin.revised)
    recipe = order.recipe
    if order.corpus is None and (recipe.calibrated or order.goal.max_kl < float("inf")):
        raise ExportError(
            f"The recipe {recipe.name} needs text to calibrate on and to measure with; "
            "name some with --calibration."
        )
    folder = _work_path(out, origin, order)
    with contextlib.ExitStack() as stack:
        stage = stack.enter_context(staged(out))
        done = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        need = max(0, disk_need(origin, recipe) - done)
        check_resources(origin.weights, need, stage, bytes_a_weight(gguf=origin.is_gguf))
        notes = stack.enter_context(kept_work(folder, out))
        pace = TimeLeft(on_progress or _no_progress, SHARES[kind_of(recipe)])
        work = _Work(notes, origin, order, pace, debug)
        work.study()
        built = work.search() if recipe.placing == "measured" else work.by_rule()
        for file in sorted(built.folder.iterdir()):
            file.rename(stage / file.name)
        report = work.report(built)
        pace.begin(CHECK)
        for needed in _NEEDED:
            if not (stage / needed).is_file():
                raise ExportError(f"The conversion wrote no {needed}; run it again with --debug.")
        run_module(
            "evaluate.golden_answers",
            {"bundle": str(stage)},
            "recording golden answers",
            on_progress=pace,
            debug=debug,
        )
        config = json.loads((stage / "genai_config.json").read_bytes())["model"]
        fields = _manifest_fields(origin, recipe, built.attempt.placement.formats, config, created)
        fields |= cache_sizes(stage)
        if built.written:
            fields["quantization"]["written"] = weight_groups(built.written)
        if (stage / GRAPH).is_file():
            fields["graphs"]["adapters"] = GRAPH
        if (stage / SCORE_GRAPH).is_file():
            fields["graphs"]["score"] = SCORE_GRAPH
        weight_bytes = sum(file.stat().st_size for file in stage.glob("model.onnx*"))
        sizes = {
            "weights": origin.weights,
            "weight_bytes": weight_bytes,
            "bits_per_weight": round(weight_bytes * 8 / origin.weights, 3),
        }
        write_report(stage, {"kind": "decoder", **sizes, **report})
        manifest = write_manifest(stage, fields)
        size = sum(file.stat().st_size for file in stage.iterdir())
        for fidelity in (built.fidelity, built.written_fidelity):
            order.goal.check(fidelity.get("kl_mean"), size)
        measured = measure_bundle(stage, on_progress=pace, debug=debug)
    return manifest, {**measured, **built.fidelity}


def _work_path(out: Path, origin: Origin, order: ExportOrder) -> Path:
    """The work folder of an export. Its name depends on all that the kept files depend on."""
    corpus = astuple(order.corpus) if order.corpus else None
    versions = runtime_versions("edgeslm", "onnxruntime-genai", "torch", "transformers")
    key = json.dumps([origin.source.model_dump(), str(order.recipe), corpus, versions]).encode()
    if not origin.is_gguf:  # the source's digest is that of the weights
        for file in sorted(origin.path.iterdir()):
            if file.suffix in SETTINGS and file.is_file():
                key += file.name.encode() + file.read_bytes()
    return work_path(out, key)


def _no_progress(done: int, total: int, what: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class _Built:
    """A placement (a format for each matrix) that was built, with its model folder and fidelity. ``written``
    has the formats for decoding single tokens, if they differ from the placement's."""

    attempt: Candidate
    folder: Path
    fidelity: dict[str, Any]
    written: Mapping[str, Format] = field(default_factory=dict)
    written_fidelity: dict[str, Any] = field(default_factory=dict)


class _Work:
    """The steps from a source to a bundle's files, in a scratch folder."""

    def __init__(self, notes: Notes, origin: Origin, order: ExportOrder, pace: TimeLeft, debug: bool) -> None:
        self._notes, self._folder = notes, notes.folder
        self._origin, self._order = origin, order
        self._pace, self._debug = pace, debug
        # Of an interrupted export, which may have ended in the middle of writing them.
        (self._folder / RANGES).unlink(missing_ok=True)
        for folder in self._folder.glob("bundle-*"):
            shutil.rmtree(folder)
        self._made = 0
        self._golden: dict[str, int] = {}

    def _run(self, module: str, what: str, task: Mapping[str, Any]) -> dict[str, Any]:
        task = {"work": str(self._folder), "device": self._order.device, **task}
        return run_module(module, task, what, on_progress=self._pace, debug=self._debug)

    def study(self) -> None:
        """Writes checkpoint, tokens and reference logits; finds the source's matrices and, if the recipe
        measures sensitivity, the losses of embedding and head."""
        self._pace.begin(STUDY)
        recipe, origin = self._order.recipe, self._origin
        self._quantized_as = gguf_types(origin)
        task = study_task(
            origin,
            self._order.corpus,
            calibration_tokens=CALIBRATION_TOKENS if recipe.calibrated else 0,
            formats=recipe.choices,
            find_exact=bool(self._quantized_as.keys() - UNQUANTIZED),
        )
        self._found = self._notes.load(STUDY) or self._run("quantize.worker", "reading the source", task)
        self._notes.save(STUDY, self._found)
        self._exact = {name: Format(*pair) for name, pair in self._found["exact"].items()}

    def _quantize(
        self,
        formats: Mapping[str, Sequence[Format]],
        spare: Mapping[str, Format] = MappingProxyType({}),
    ) -> dict[str, Any]:
        """Quantizes every matrix in all of its ``formats``, in its ``spare`` format by rounding."""
        self._pace.begin(QUANTIZE)
        return self._run(
            "quantize.worker",
            "quantizing",
            {
                "step": "quantize",
                "formats": {name: _pairs(several) for name, several in formats.items()},
                "exact": self._found["exact"],
                "spare": dict(zip(spare, _pairs(spare.values()), strict=True)),
                "compensate": self._order.recipe.calibrated,
            },
        )

    def by_rule(self) -> _Built:
        """Builds the model by a recipe that doesn't measure sensitivity."""
        shapes, recipe = self._found["matrices"], self._order.recipe
        formats = formats_by_rule(recipe, shapes, self._found["layers"])
        written = written_formats(recipe, formats)
        for wanted in (formats, written):
            self._take_over(wanted)
        self._quantize({name: list(dict.fromkeys((form, written[name]))) for name, form in formats.items()})
        built = self.build(
            Placement(formats, sum(form.bytes(*shapes[name]) for name, form in formats.items()), 0.0)
        )
        return built if written == formats else self._join(built, written)

    def search(self) -> _Built:
        """Quantizes the matrices, then builds placements until one is as small as the goal allows. Only those
        formats are calibrated that the goal makes likely by the losses of rounding. A matrix that isn't
        likely to have 8 bits is rounded to 8 bits as well, for the case that the goal needs more than that;
        if the goal is missed all the same, all formats are calibrated.

        :return: the best build.
        """
        goal, choices = self._order.goal, self._choices()
        sizes = (
            min(form.bytes(*self._found["matrices"][name]) for form in may) for name, may in choices.items()
        )
        goal.check_least(self._found["other_bytes_least"] + sum(sizes))
        likely = likely_formats(self._units(choices, {}), goal, self._found["other_bytes"])
        spare = add_spare_formats(likely, choices)
        add_source_formats(likely, self._exact)
        missed = {"max_kl": goal.max_kl, "max_bytes": goal.max_bytes}
        if self._notes.load(_MISSED) == missed:  # by an interrupted export
            likely, spare = choices, {}
        best = self._search_among(likely, spare)
        if likely != choices and not goal.is_met(best.attempt.kl, best.attempt.size):
            self._notes.save(_MISSED, missed)
            shutil.rmtree(best.folder)
            best = self._search_among(choices)
        goal.check(best.attempt.kl, best.attempt.size)
        return best

    def _search_among(
        self,
        choices: Mapping[str, Sequence[Format]],
        spare: Mapping[str, Format] = MappingProxyType({}),
    ) -> _Built:
        """Quantizes each matrix in the formats ``choices``, and builds placements."""
        units = self._units(choices, self._quantize(choices, spare)["losses"])
        search = BitSearch(units, self._order.goal, self._found["other_bytes"])
        best: _Built | None = None
        while (placement := search.propose()) is not None:
            built = self.build(placement)
            search.attempts.append(built.attempt)
            worse, best = (best, built) if search.best() is built.attempt else (built, best)
            if worse is not None:
                shutil.rmtree(worse.folder)
        if best is None:
            raise ExportError("No placement was proposed.")
        return best

    def _take_over(self, formats: dict[str, Format]) -> None:
        """Replaces a matrix's format by the format in which the source already stores the matrix, unless the
        source's format has more bits. Formats with a scale for each row aren't replaced."""
        for unit in units_of(formats):
            exact = self._exact_format(unit)
            wanted = formats[unit[0]]
            if exact is not None and exact.bits <= wanted.bits and not wanted.by_row:
                formats.update(dict.fromkeys(unit, exact))

    def _choices(self) -> dict[str, list[Format]]:
        """The formats that the recipe allows for each matrix, and the source's own format."""
        shapes = self._found["matrices"]
        choices: dict[str, list[Format]] = {}
        for names in units_of(shapes):
            may = choices_of(self._order.recipe, names[0], shapes[names[0]][1])
            exact = self._exact_format(names)
            may = [*may, exact] if exact and exact not in may else may
            choices.update({name: list(may) for name in names})
        return choices

    def _units(
        self, choices: Mapping[str, Sequence[Format]], measured: Mapping[str, list[list[float]]]
    ) -> list[Unit]:
        """The units of matrices that share a format, with the loss of each of their ``choices``: the
        ``measured`` loss where there is one, or else an estimate from the loss of rounding."""
        shapes, rounded = self._found["matrices"], self._found["losses"]
        made = []
        for names in units_of(shapes):
            total = dict.fromkeys(choices[names[0]], 0.0)
            for name in names:
                share = 1.0 if name in measured else left_by_gptq(name)
                for bits, group_size, loss in measured.get(name, rounded[name]):
                    if (form := Format(int(bits), int(group_size))) in total:
                        total[form] += loss * share
            if (exact := self._exact_format(names)) is not None and exact in total:
                total[exact] = 0.0
            made.append(Unit({name: tuple(shapes[name]) for name in names}, total))
        return made

    def _exact_format(self, unit: tuple[str, ...]) -> Format | None:
        """The format in which the source stores all matrices of a unit; None if their formats differ or are
        float."""
        return shared_format(unit, self._exact)

    def build(self, placement: Placement) -> _Built:
        """Builds and measures a placement. The first build's tokenizer is checked too (``golden_tokens``)."""
        self._pace.begin(BUILD)
        self._made += 1
        folder = self._folder / f"bundle-{self._made}"
        self._build_graph(folder, placement.formats)
        write_score_graph(folder)
        keep_last_logits(folder)
        write_lora_graph(folder)
        fix_scales(folder)
        self._quantize_cache(folder)
        self._golden = self._golden or golden_tokens.check(self._folder, folder)
        size = sum(file.stat().st_size for file in folder.iterdir()) + self._found["report_bytes"]
        fidelity = self._measure(folder)
        attempt = Candidate(placement, fidelity.get("kl_mean", float("inf")), size)
        return _Built(attempt, folder, fidelity)

    def _build_graph(self, folder: Path, formats: Mapping[str, Format]) -> None:
        pairs = dict(zip(formats, _pairs(formats.values()), strict=True))
        options = builder_options(self._order.recipe, formats)
        self._run(
            "graph.builder_worker",
            "the conversion",
            {"formats": pairs, "options": options, "out": str(folder)},
        )

    def _quantize_cache(self, folder: Path, *, single: bool = False) -> None:
        """Gives a model an int8 cache, unless a float32 cache will do. The scales are those of the first
        build."""
        if not wants_int8(folder):
            return
        if not (self._folder / RANGES).exists():
            self._run("evaluate.cache_ranges", "measuring keys and values", {"bundle": str(folder)})
        quantize_cache(folder, self._folder / RANGES, single=single)

    def _measure(self, folder: Path) -> dict[str, Any]:
        """A dict with the fidelity figures; empty without a corpus."""
        if self._order.corpus is None:
            return {}
        return self._run("evaluate.fidelity", "measuring the bundle", {"bundle": str(folder)})

    def _join(self, built: _Built, formats: dict[str, Format]) -> _Built:
        """Builds and measures a graph for single tokens and joins it to ``built``."""
        folder = self._folder / WRITES
        self._build_graph(folder, formats)
        self._quantize_cache(folder, single=True)
        fidelity = self._measure(folder)
        join(built.folder, folder)
        shutil.rmtree(folder)
        return replace(built, written=formats, written_fidelity=fidelity)

    def report(self, built: _Built) -> dict[str, Any]:
        """The report card of a build, without sizes. The report has only figures that every export of the
        same source reproduces."""
        recipe, corpus = self._order.recipe, self._order.corpus
        card: dict[str, Any] = {
            "recipe": recipe.name,
            "tied_embedding": EMBEDDING not in self._found["matrices"],
            "formats": formats_in_use(list(built.attempt.placement.formats.values())),
            "method": "GPTQ" if recipe.calibrated else "rounding",
        }
        if recipe.placing == "measured":
            card["placing"] = {"measure": "Fisher information", "builds": self._made}
        if self._quantized_as:
            card["source_tensors"] = self._quantized_as
            card["source_was_quantized"] = bool(self._quantized_as.keys() - UNQUANTIZED)
            card["taken_over_without_loss"] = sum(
                self._exact.get(name) == form for name, form in built.attempt.placement.formats.items()
            )
        if corpus is not None:
            if recipe.calibrated:
                card["calibration"] = (
                    f"{corpus.calibration_name}, {self._found['calibration_tokens']:,} tokens"
                )
            card["fidelity"] = {"text": corpus.name, **built.fidelity}
        if built.written:
            card["written"] = {"formats": formats_in_use(list(built.written.values()))}
            if corpus is not None:
                card["written"]["fidelity"] = {"text": corpus.name, **built.written_fidelity}
        return {**card, "golden": self._golden}


def _pairs(formats: Iterable[Format]) -> list[list[int]]:
    """Formats as JSON for a child's task: a list [bits, group size] for each."""
    return [[form.bits, form.group_size] for form in formats]


def _manifest_fields(
    origin: Origin, recipe: Recipe, formats: Mapping[str, Format], config: dict[str, Any], created: str
) -> dict[str, Any]:
    return {
        "name": bundle_name(origin.source.id, recipe.name),
        "kind": "decoder",
        "architecture": origin.architecture,
        "source": origin.source,
        "quantization": {"recipe": recipe.name, "groups": weight_groups(formats)},
        "context_length": int(config["context_length"]),
        "graphs": {"generate": "model.onnx"},
        "runtime": runtime_versions("onnxruntime", "onnxruntime-genai"),
        "created": created,
    }
