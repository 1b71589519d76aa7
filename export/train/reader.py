"""Reader training: makes a cross-encoder bundle, which gives the probability that a passage answers a
question.

The bundle is made from an encoder and question pairs, or from a trained cross-encoder. For each answered
question, the reader is trained on the question's text and on the same text without the answering sentence.
Such contrast sets (Gardner et al., 2020, "Evaluating models' local decision boundaries via contrast sets")
teach what an answer is, whereas unanswerable questions can be recognized by their wording. Most texts get a
distracting sentence, which answers another question or is an injected instruction. Half of the answered
questions also get the most similar other text of the file, as a search would return it. Each question is used
with short and with long texts. A tenth of the sources is held out, and the bundle is evaluated on them
through the graph that a device runs.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from edgeslm_export.bundle.writer import created_at, runtime_versions, staged, write_manifest, write_report
from edgeslm_export.data.question_pairs import check_count, is_aside, may_overlap, source_of, words_of
from edgeslm_export.data.rows import QuestionRow, bare_text
from edgeslm_export.evaluate.report_card import load_encoder
from edgeslm_export.graph.encoder_recipe import DEFAULT_RECIPE
from edgeslm_export.jobs.checkpoint_notes import Notes
from edgeslm_export.jobs.optimum_env import cache_folder
from edgeslm_export.jobs.resources import check_resources
from edgeslm_export.models.encoder import read_pooling
from edgeslm_export.sources.checkpoint import Origin, bundle_name
from edgeslm_export.train.cross_encoder import take_apart
from edgeslm_export.train.cross_encoder_training import LONGEST, Asked, PairText, train_reader
from edgeslm_export.train.encoder_finetune import LAYER
from edgeslm_export.train.encoder_methods import (
    BYTES_A_WEIGHT,
    ENCODER_FIELDS,
    WEIGHTS,
    fill_finetuned,
    save_arrays,
)
from edgeslm_export.train.job import TrainingJob
from edgeslm_export.train.loop import Schedule, reproducible
from edgeslm_export.train.spec import Budget

from edgeslm.bundle.manifest import Manifest
from edgeslm.bundle.spans import Place
from edgeslm.engine.calls import Read
from edgeslm.knowledge.documents.sentences import split_sentences
from edgeslm.tasks.grounding import with_heading

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

EPOCHS: Final = 2
BATCH: Final = 12
"""Number of questions in a batch. Most questions have two or three texts."""
RATE: Final = 1e-4
_MOST_CUT: Final = 0.6
"""Maximum share of a text that may be removed with the answer. If more were removed, the rest would differ
too much from the whole text."""
_MOST_ORDERED: Final = 3
"""Maximum number of words of the answer that an injected instruction demands."""
_SOUGHT: Final = 40
_QUESTION: Final = "How often is the press oiled?"
_MODES: Final = {"cls": "cls_token", "mean": "mean_tokens"}
_MODULES: Final = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]


def export_reader(
    origin: Origin, rows: Sequence[QuestionRow], out: Path, budget: Budget, recipe: str = DEFAULT_RECIPE
) -> tuple[Manifest, dict[str, Any]]:
    """Trains the encoder ``origin`` and makes the bundle ``out`` from it.

    The training state is saved in the cache folder from time to time; an interrupted command resumes.

    :return: the bundle's manifest, figures of the training, and areas under the ROC curve on held-out
        sources. The area ``near`` compares texts that have the answer with the same texts without it;
        ``other`` compares texts that have the answer with texts of other rows.
    :raises ExportError: too few questions, or a step failed; nothing is left behind.
    """
    asked, aside = make_training_set(rows)
    if not aside:
        budget.announce("There are too few sources to hold one out: the reader isn't evaluated.")
    schedule = Schedule(EPOCHS, BATCH, RATE, budget.seconds)
    notes = Notes(cache_folder() / f"reader-{_digest(origin, asked, schedule)}")
    with staged(out) as stage, tempfile.TemporaryDirectory(prefix="reader-") as name:
        check_resources(origin.weights, origin.weights * BYTES_A_WEIGHT, Path(name), BYTES_A_WEIGHT)
        taught = Path(name) / "taught"
        _, context_length = read_pooling(origin.path)
        state = notes.state("taught")
        device = budget.device_for(origin.weights, BYTES_A_WEIGHT)
        job = TrainingJob(
            origin.path, taught, schedule, aside, state, budget.on_progress, budget.debug, device
        )
        said = train_reader(job, min(LONGEST, context_length), asked)
        fields, likeness = _fill(stage, taught, origin, budget, recipe)
        figures = {**measure(stage, [asked[number] for number in aside]), **likeness}
        write_report(stage, {**figures, **reproducible(said)})
        manifest = write_manifest(stage, fields)
    notes.remove()
    return manifest, {**figures, **said}


def _digest(origin: Origin, asked: Sequence[Asked], schedule: Schedule) -> str:
    """Digest of model, data and schedule, which identifies a training, so that the same command resumes."""
    what = [origin.source.id, origin.source.revision, [asdict(one) for one in asked], asdict(schedule)]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


def export_cross_encoder(
    origin: Origin, out: Path, budget: Budget, recipe: str = DEFAULT_RECIPE
) -> tuple[Manifest, dict[str, Any]]:
    """Makes the bundle ``out`` from a trained cross-encoder.

    :return: the bundle's manifest, and the similarity of the bundle's vectors to the float model's vectors.
    :raises ExportError: the cross-encoder has more than one output, or a step failed; nothing is left behind.
    """
    with staged(out) as stage, tempfile.TemporaryDirectory(prefix="reader-") as name:
        taken = Path(name) / "encoder"
        told = take_apart(origin.path, taken, on_progress=budget.on_progress, debug=budget.debug)
        fields, likeness = _fill(stage, taken, origin, budget, recipe, told)
        load_encoder(stage).run(Read(_QUESTION, (_QUESTION,)))
        write_report(stage, likeness)
        manifest = write_manifest(stage, fields)
    return manifest, likeness


def _fill(
    stage: Path,
    taught: Path,
    origin: Origin,
    budget: Budget,
    recipe: str = DEFAULT_RECIPE,
    told: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Writes a bundle with a provisional manifest to ``stage``, from the checkpoint ``taught`` of an encoder
    with its layers.

    :param told: what ``take_apart`` returned; by default the head of a reader that was trained here.
    :return: the manifest's fields, and the report with the similarity to the float model.
    """
    write_pooling(taught, told.get("pooling", "cls"))
    of_encoder = fill_finetuned(taught, origin, stage, budget, recipe)
    import numpy as np

    with np.load(taught / LAYER, allow_pickle=False) as arrays:
        save_arrays(stage, dict(arrays))
    fields = {
        **{key: of_encoder[key] for key in ENCODER_FIELDS},
        "name": bundle_name(origin.source.id, "reader"),
        "kind": "head",
        "head": {"weights": WEIGHTS, "reads": "pairs", "activation": told.get("activation")},
        "source": origin.source,
        "runtime": runtime_versions("onnxruntime", "torch", "transformers"),
        "created": created_at(origin.revised),
    }
    write_manifest(stage, fields)
    return fields, of_encoder["report"]


def write_pooling(folder: Path, pooling: str = "cls") -> None:
    """Writes sentence-transformers' files for pooling, without normalization. ``pooling`` is ``cls`` or
    ``mean``."""
    (folder / "modules.json").write_text(json.dumps(_MODULES))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling/config.json").write_text(json.dumps({f"pooling_mode_{_MODES[pooling]}": True}))


# --- pairs -----------------------------------------------------------------------------------------


@cache
def load_orders() -> tuple[str, ...]:
    """Templates of injected instructions. The placeholder ``{word}`` is the answer that an instruction
    demands; some templates also have the placeholder ``{question}``."""
    return tuple(files("edgeslm_export").joinpath("orders.txt").read_text(encoding="utf-8").splitlines())


@dataclass(frozen=True, slots=True)
class Mix:
    """Composition of the training texts.

    :param lengths: ranges of a text's number of words. By default each training question gets a short text,
        like an ingested message, and a long text, like a document's passage.
    :param distracted: share of texts that get a distracting sentence.
    :param ordered: share of the distracting sentences that are injected instructions; the others answer
        another question.
    :param compared: share of answered questions that also get a text of another row.
    :param orders: the injected instructions, see ``load_orders``.
    """

    lengths: Sequence[tuple[int, int]] = ((8, 60), (61, 150))
    distracted: float = 0.6
    ordered: float = 0.5
    compared: float = 0.5
    orders: Sequence[str] = field(default_factory=load_orders)


def make_training_set(rows: Sequence[QuestionRow], mix: Mix | None = None) -> tuple[list[Asked], list[int]]:
    """Questions with their texts, and the indices of the held-out questions. The first text of a question
    comes from the question's row. A training question occurs once for each range of ``mix.lengths``.

    :raises ExportError: fewer than ``FEWEST`` answered questions.
    """
    mix = mix or Mix()
    questions = [row for row in rows if row.question is not None]
    check_count(sum(row.answer is not None and not is_aside(row) for row in questions))
    asked: list[Asked] = []
    aside: list[int] = []
    chance = random.Random(0)
    strangers = [row for row in questions if row.answer is not None and not is_aside(row)]
    for whole, others in zip(questions, find_others(rows, questions, mix.compared), strict=True):
        if is_aside(whole):
            aside.append(len(asked))
            asked.append(_asked(whole, _with_and_without(whole, len(whole.text), chance, mix), others))
            continue
        for lengths in mix.lengths:
            own = _with_and_without(whole, chance.randint(*lengths), chance, mix)
            beside = [cropped(other, chance.randint(*lengths), chance) for other in others]
            own, beside = (
                [_with_distractor(one, whole, strangers, chance, mix) for one in texts]
                for texts in (own, beside)
            )
            asked.append(_asked(whole, own, beside))
    return asked, aside


def _asked(whole: QuestionRow, own: Sequence[QuestionRow], beside: Sequence[QuestionRow]) -> Asked:
    """The question of ``whole`` with the texts ``own`` from its row and ``beside`` from other rows, headings
    included."""
    texts = [
        PairText(with_heading(row.heading, row.text), row.answer is not None, _place(row)) for row in own
    ]
    others = [PairText(with_heading(row.heading, row.text), answers=False, is_own=False) for row in beside]
    return Asked(str(whole.question), (*texts, *others))


def _with_and_without(row: QuestionRow, words: int, chance: random.Random, mix: Mix) -> list[QuestionRow]:
    """The row cropped to about ``words`` words around the answer and, if the answer can be removed, an
    equally long row without the answer. With unequal lengths, the reader could recognize the answering text
    by its length."""
    rest = _cut(row)
    if not rest:
        return [cropped(row, words, chance)]
    answering = sum(len(row.text[slice(*place)].split()) for place in _answering(row))
    words = min(words, max(mix.lengths[0][0], len(row.text.split()) - answering))
    without = _cut(cropped(row, words + answering, chance)) or [cropped(one, words, chance) for one in rest]
    return [cropped(row, words, chance), *without]


def _cut(row: QuestionRow) -> list[QuestionRow]:
    """A list with one row, which is ``row`` without the answer's sentences; empty if they can't be
    removed."""
    text = without_answer(row)
    return [] if text is None else [replace(row, text=text, answer=None)]


def _with_distractor(
    row: QuestionRow, whole: QuestionRow, strangers: Sequence[QuestionRow], chance: random.Random, mix: Mix
) -> QuestionRow:
    """Adds a distracting sentence to some texts: an injected instruction, or the answer to a question of
    another source than ``whole``. Without such sentences the reader would learn that the sentence which
    stands out is the answer, and anyone who can write into a document could decide what is quoted.
    """
    stranger = chance.choice(strangers)
    if chance.random() >= mix.distracted or source_of(stranger) == source_of(whole):
        return row
    if chance.random() < mix.ordered:
        wanted = " ".join(stranger.text[slice(*(stranger.answer or (0, 0)))].split()[:_MOST_ORDERED])
        said = {"{question}": str(whole.question), "{word}": wanted}
        order = re.sub(r"\{question\}|\{word\}", lambda name: said[name[0]], chance.choice(mix.orders))
        return with_sentence(row, order, chance)
    places = _answering(stranger)
    if not places:
        return row
    return with_sentence(row, stranger.text[places[0][0] : places[-1][1]], chance)


def with_sentence(row: QuestionRow, sentence: str, chance: random.Random) -> QuestionRow:
    """Inserts a sentence before, after or between the sentences of the text, but not within the answer."""
    start, end = row.answer or (0, 0)
    borders = [0, *(last for _, last in split_sentences(row.text))]
    at = chance.choice([border for border in borders if not start < border < end])
    text = f"{row.text[:at]} {sentence}{row.text[at:]}" if at else f"{sentence} {row.text}"
    if row.answer is None:
        return replace(row, text=text)
    shift = len(sentence) + 1 if at <= start else 0
    return replace(row, text=text, answer=(start + shift, end + shift))


def _answering(row: QuestionRow) -> list[Place]:
    """Spans of the sentences that contain the answer."""
    start, end = row.answer or (0, 0)
    return [(first, last) for first, last in split_sentences(row.text) if first < end and start < last]


def cropped(row: QuestionRow, words: int, chance: random.Random) -> QuestionRow:
    """Crops a row's text to whole sentences, about ``words`` in total, around the answer or a random
    sentence."""
    places = split_sentences(row.text)
    if not places:
        return row
    if row.answer is None:
        first = last = chance.randrange(len(places))
    else:
        own = [places.index(place) for place in _answering(row)] or [0]
        first, last = own[0], own[-1]
    while len(row.text[places[first][0] : places[last][1]].split()) < words:
        if first > 0 and (last == len(places) - 1 or chance.random() < 0.5):
            first -= 1
        elif last < len(places) - 1:
            last += 1
        else:
            break
    begins, ends = places[first][0], places[last][1]
    answer = None if row.answer is None else (row.answer[0] - begins, row.answer[1] - begins)
    return replace(row, text=row.text[begins:ends], answer=answer)


def _place(row: QuestionRow) -> tuple[int, int] | None:
    """The answer's span in the text with the heading in front; None if there is no answer."""
    if row.answer is None:
        return None
    shift = len(with_heading(row.heading, row.text)) - len(row.text)
    return row.answer[0] + shift, row.answer[1] + shift


def without_answer(row: QuestionRow) -> str | None:
    """The text without the answer's sentences; None if too little is left, if the answer's words occur again,
    or if there is no answer."""
    if row.answer is None:
        return None
    start, end = row.answer
    answering = _answering(row)
    text = " ".join(row.text[slice(*at)] for at in split_sentences(row.text) if at not in answering)
    if bare_text(row.text[start:end]) in bare_text(text) or len(text) < (1 - _MOST_CUT) * len(row.text):
        return None
    return text or None


def find_others(
    rows: Sequence[QuestionRow], asked: Sequence[QuestionRow], share: float
) -> list[list[QuestionRow]]:
    """For each question at most one text of another row, the most similar one by TF-IDF.

    Only a ``share`` of the answered questions get a text. A training question gets a text of a training
    source, a held-out question one of a held-out source. The text doesn't resemble the question's own text or
    contain the answer's words.
    """
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = list({bare_text(row.text): row for row in rows}.values())
    shown = [with_heading(row.heading, row.text) for row in texts]
    words = [words_of(row.text) for row in texts]
    vectorizer = TfidfVectorizer(sublinear_tf=True, stop_words="english", dtype=np.float32)
    columns = vectorizer.fit_transform(shown).T.tocsr()
    chance = random.Random(0)
    found = []
    for at in range(0, len(asked), 200):  # limits the memory of the scores
        some = asked[at : at + 200]
        scores = (vectorizer.transform([str(row.question) for row in some]) @ columns).toarray()
        for row, of_row in zip(some, scores, strict=True):
            own = words_of(row.text)
            wanted = int(row.answer is not None and chance.random() < share)
            likely = _likeliest(of_row)
            fit = (int(n) for n in likely if not _may_answer(row, own, texts[n], words[n]))
            found.append([replace(texts[n], answer=None) for n, _ in zip(fit, range(wanted), strict=False)])
    return found


def _likeliest(scores: npt.NDArray[np.float32]) -> list[int]:
    import numpy as np

    count = min(_SOUGHT, len(scores))
    best = np.argpartition(-scores, count - 1)[:count]
    return [int(n) for n in best[np.argsort(-scores[best], kind="stable")]]


def _may_answer(row: QuestionRow, own: frozenset[str], other: QuestionRow, words: frozenset[str]) -> bool:
    if is_aside(row) != is_aside(other) or may_overlap(own, words):
        return True
    return row.answer is not None and bare_text(row.text[slice(*row.answer)]) in bare_text(other.text)


# --- what it is worth --------------------------------------------------------------------------------


def measure(bundle: Path, asked: Sequence[Asked]) -> dict[str, Any]:
    """Evaluates the bundle on held-out questions: areas under the ROC curve, see ``export_reader``."""
    from sklearn.metrics import roc_auc_score

    encoder = load_encoder(bundle)
    near: list[tuple[bool, float]] = []
    other: list[tuple[bool, float]] = []
    for one in asked:
        likely = encoder.run(Read(one.question, tuple(text.text for text in one.texts))).probabilities
        told = list(zip(one.texts, likely, strict=True))
        near += [(text.answers, value) for text, value in told if text.is_own]
        other += [(text.answers, value) for text, value in told if text.answers or not text.is_own]
    figures: dict[str, Any] = {"questions_aside": len(asked)}
    for name, pairs in (("near", near), ("other", other)):
        truth = [answers for answers, _ in pairs]
        if len(set(truth)) == 2:
            figures[name] = round(float(roc_auc_score(truth, [value for _, value in pairs])), 3)
    return figures
