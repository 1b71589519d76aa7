"""Retriever training: fine-tunes an encoder so that questions are near the texts that answer them.

Negatives include other texts of the same source, so that the encoder learns to distinguish passages on one
subject. A tenth of the sources is held out. The report says how often held-out questions find their own texts
among all held-out texts, before and after training.
"""

from __future__ import annotations

import random
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeslm_export.bundle.writer import created_at, runtime_versions, staged, write_manifest, write_report
from edgeslm_export.data.question_pairs import check_count, is_aside, nearly_equal, source_of, words_of
from edgeslm_export.data.rows import QuestionRow, bare_text
from edgeslm_export.evaluate.report_card import embed_texts, load_encoder, measure_bundle
from edgeslm_export.jobs.resources import check_resources
from edgeslm_export.jobs.subprocess_job import OnProgress
from edgeslm_export.models.encoder import fill_encoder, read_pooling
from edgeslm_export.sources.checkpoint import Origin, bundle_name, examine_local
from edgeslm_export.train.encoder_methods import BYTES_A_WEIGHT
from edgeslm_export.train.job import TrainingJob
from edgeslm_export.train.loop import Schedule, reproducible
from edgeslm_export.train.retriever_training import Sought, train_retriever
from edgeslm_export.train.spec import Budget

from edgeslm.bundle.manifest import Manifest
from edgeslm.tasks.grounding import with_heading

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

EPOCHS: Final = 1
BATCH: Final = 8
"""Number of chunks in a batch. A batch has about sixty texts, and each question is compared with all of
them."""
RATE: Final = 3e-5
LONGEST: Final = 160
"""Maximum number of tokens of a text in training; enough for most passages."""
_A_CHUNK: Final = 8
"""Maximum number of texts with questions in a chunk; all texts of a chunk are from one source."""
_BESIDE: Final = 3
"""Maximum number of texts without questions in a chunk, from the same source as the others."""
_MOST_QUESTIONS: Final = 4
"""Maximum number of training questions for each text; more questions don't help."""
_AT_ONCE: Final = 200
"""Number of texts embedded between two progress reports."""


def export_retriever(
    origin: Origin, rows: Sequence[QuestionRow], out: Path, recipe: str, budget: Budget
) -> tuple[Manifest, dict[str, Any]]:
    """Fine-tunes the encoder ``origin`` and makes the bundle ``out`` from it.

    :param recipe: a key of ``encoder_recipe.RECIPES``.
    :return: the bundle's manifest, and a dict of figures of the training and the bundle. In this dict,
        ``before`` and ``after`` (training) hold the shares of held-out questions that find their own text
        first (``hit_1``) or among the first three texts (``hit_3``).
    :raises ExportError: too few questions, or a step failed; nothing is left behind.
    """
    texts = gather([row for row in rows if not is_aside(row)])
    aside = gather([row for row in rows if is_aside(row)])
    check_count(sum(len(text.questions) for own in texts for text in own))
    section, context_length = read_pooling(origin.path)
    schedule = Schedule(EPOCHS, BATCH, RATE, budget.seconds)
    with staged(out) as stage, tempfile.TemporaryDirectory(prefix="retriever-") as name:
        check_resources(origin.weights, origin.weights * BYTES_A_WEIGHT, Path(name), BYTES_A_WEIGHT)
        taught, plain = Path(name) / "taught", Path(name) / "plain"
        before = None
        if any(text.questions for own in aside for text in own):
            plain.mkdir()
            _fill(origin, plain, recipe, budget)
            before = hits(plain, aside, budget.on_progress)
        else:
            budget.announce("There are too few sources to hold one out: the gain of training isn't measured.")
        job = TrainingJob(
            origin.path,
            taught,
            schedule,
            on_progress=budget.on_progress,
            debug=budget.debug,
            device=budget.device_for(origin.weights, BYTES_A_WEIGHT),
        )
        said = train_retriever(job, section, min(LONGEST, context_length), make_chunks(texts))
        fields, report = _fill(examine_local(taught, "encoder", origin.source), stage, recipe, budget)
        figures = {"before": before, "after": hits(stage, aside, budget.on_progress)}
        write_report(stage, {**report, **figures, **reproducible(said)})
        fields |= {
            "name": bundle_name(origin.source.id, "search"),
            # Trained without the model's prefixes for texts, since collections embed texts without them.
            "encoder": section.model_copy(update={"prompts": None}),
            "runtime": runtime_versions("onnxruntime", "torch", "transformers"),
            "created": created_at(origin.revised),
        }
        manifest = write_manifest(stage, fields)
        measured = measure_bundle(stage, on_progress=budget.on_progress, debug=budget.debug)
    likeness = {key: report[key] for key in ("cosine_to_float", "rank_agreement")}
    return manifest, {**measured, **likeness, **figures, **said}


def _fill(origin: Origin, folder: Path, recipe: str, budget: Budget) -> tuple[dict[str, Any], dict[str, Any]]:
    return fill_encoder(
        origin, folder, budget.announce, recipe, on_progress=budget.on_progress, debug=budget.debug
    )


# --- what is learned from ----------------------------------------------------------------------------


def gather(rows: Sequence[QuestionRow]) -> list[list[Sought]]:
    """The texts of each source with the questions that they answer.

    Each text gets ``kin``, the number of a group of texts that count as equal: a search may find any of them.
    Texts count as equal if they are from one source and nearly the same, or if they answer the same question.
    """
    sources: dict[str, dict[str, list[str]]] = defaultdict(dict)
    for row in rows:
        asked = sources[source_of(row)].setdefault(with_heading(row.heading, row.text), [])
        if row.question is not None and row.answer is not None:
            asked.append(row.question)
    gathered, answering, count = [], dict[str, int](), 0
    for texts in sources.values():
        firsts: list[tuple[frozenset[str], int]] = []
        of_source = []
        for text, questions in texts.items():
            words = words_of(text)
            known = [answering[bare_text(one)] for one in questions if bare_text(one) in answering]
            known += [kin for first, kin in firsts if nearly_equal(words, first)]
            kin = known[0] if known else count
            count += not known
            firsts.append((words, kin))
            answering.update((bare_text(one), kin) for one in questions)
            of_source.append(Sought(text, tuple(questions), kin))
        gathered.append(of_source)
    return gathered


def make_chunks(sources: Sequence[Sequence[Sought]]) -> list[list[Sought]]:
    """Groups texts that have questions into chunks by source, and adds to each chunk some texts of the source
    that have no questions."""
    chance = random.Random(0)
    chunks = []
    for texts in sources:
        asked = [
            Sought(text.text, tuple(chance.sample(text.questions, _MOST_QUESTIONS)), text.kin)
            if len(text.questions) > _MOST_QUESTIONS
            else text
            for text in texts
            if text.questions
        ]
        beside = [text for text in texts if not text.questions]
        chance.shuffle(asked)
        for at in range(0, len(asked), _A_CHUNK):
            others = chance.sample(beside, min(_BESIDE, len(beside)))
            chunks.append([*asked[at : at + _A_CHUNK], *others])
    return chunks


# --- evaluation --------------------------------------------------------------------------------------


def hits(
    bundle: Path, sources: Sequence[Sequence[Sought]], on_progress: OnProgress | None = None
) -> dict[str, Any] | None:
    """A dict with ``questions`` (number of questions), ``hit_1`` and ``hit_3`` (see ``export_retriever``), or
    None if there are no questions. A text with the same ``kin`` as the question's own text counts as a
    hit."""
    texts = [text for own in sources for text in own]
    asked = [(question, text.kin) for text in texts for question in text.questions]
    if not asked:
        return None
    vectors = _embedded(
        bundle, [*(question for question, _ in asked), *(one.text for one in texts)], on_progress
    )
    ranks = answer_ranks(
        vectors[: len(asked)], vectors[len(asked) :], [kin for _, kin in asked], [text.kin for text in texts]
    )
    return {
        "questions": len(asked),
        **{f"hit_{most}": round(float((ranks < most).mean()), 3) for most in (1, 3)},
    }


def _embedded(
    bundle: Path, texts: Sequence[str], on_progress: OnProgress | None
) -> npt.NDArray[np.floating[Any]]:
    import numpy as np

    encoder, parts = load_encoder(bundle), []
    for at in range(0, len(texts), _AT_ONCE):
        if on_progress:
            on_progress(at, len(texts), "searching for the texts of held-out questions")
        parts.append(embed_texts(encoder, texts[at : at + _AT_ONCE]))
    return np.concatenate(parts)


def answer_ranks(
    questions: npt.NDArray[np.floating[Any]],
    texts: npt.NDArray[np.floating[Any]],
    own: Sequence[int],
    kin: Sequence[int],
) -> npt.NDArray[np.int64]:
    """Rank of each question's own kin (group of equal texts) among all kins, [questions], from 0."""
    import numpy as np

    order = np.argsort(kin, kind="stable")
    numbers, begins = np.unique(np.array(kin)[order], return_index=True)
    nearest = np.maximum.reduceat(_units(questions) @ _units(texts)[order].T, begins, axis=1)
    columns = np.searchsorted(numbers, own)
    return np.asarray((nearest > nearest[np.arange(len(own)), columns][:, None]).sum(axis=1))


def _units(vectors: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
    import numpy as np

    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))
