"""A reader: it tells how likely a passage answers a question, reading both at once.

It comes from an encoder and questions, or from a cross-encoder that was taught already. Each question that
is answered is read with its own text, and with the same text without the sentence that answers it: texts
that are alike but for the answer teach what to look for (Gardner et al. 2020, "Evaluating models' local
decision boundaries via contrast sets"), where questions that have no answer can be told by how they are
asked. Most of these texts have a sentence more, which answers another question or orders what to answer.
Half of the questions are read with another text of the file as well, one that is most like the question:
what a search would find beside it. All are read twice, with short texts and with long ones. A tenth of the
sources is kept aside; what the bundle makes of them, through the graph that a device runs, is reported.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeslm_export.bundle.writer import created_at, runtime_versions, staged, write_manifest, write_report
from edgeslm_export.data.question_pairs import check_count, is_aside, much_alike, source_of, words_of
from edgeslm_export.data.rows import QuestionRow, bare_text
from edgeslm_export.evaluate.report_card import load_encoder
from edgeslm_export.jobs.checkpoint_notes import Notes
from edgeslm_export.jobs.optimum_env import cache_folder
from edgeslm_export.jobs.resources import check_resources
from edgeslm_export.models.encoder import read_pooling
from edgeslm_export.sources.checkpoint import Origin, bundle_name
from edgeslm_export.train.cross_encoder import take_apart
from edgeslm_export.train.cross_encoder_training import LONGEST, Asked, PairText, teach_reader
from edgeslm_export.train.encoder_finetune import LAYER
from edgeslm_export.train.encoder_methods import (
    BYTES_A_WEIGHT,
    ENCODER_FIELDS,
    WEIGHTS,
    fill_taught,
    save_arrays,
)
from edgeslm_export.train.job import TrainingJob
from edgeslm_export.train.loop import Schedule, repeatable
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
"""Questions, with two or three texts each."""
RATE: Final = 1e-4
STRANGERS: Final = 0.6
"""Of the texts that are learned from: how many have a sentence that doesn't belong there."""
ORDERS: Final = 0.5
"""Of these, how many are orders to whoever reads them; the others answer another question."""
OTHERS: Final = 0.5
"""Of questions that are answered, how many are read with another text too."""
_MOST_CUT: Final = 0.6
"""Of a text: without more of it nothing is left to be told from the whole."""
LENGTHS: Final = ((8, 60), (61, 150))
"""Words of the texts that are learned from: each question is read with a short one, as a message that is
remembered, and with a long one, as a passage of a device."""
_MOST_ORDERED: Final = 3
"""Words that an order has said."""
_SOUGHT: Final = 40
_QUESTION: Final = "How often is the press oiled?"
_CLS: Final = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]


def export_reader(
    origin: Origin, rows: Sequence[QuestionRow], out: Path, budget: Budget
) -> tuple[Manifest, dict[str, Any]]:
    """Teaches the encoder ``origin`` and makes the bundle ``out`` of it.

    What it has learned is noted in the cache folder from time to time: interrupted, it goes on there.

    :return: its manifest, how it was taught, and what was measured on the sources aside, as areas under the
        ROC curve: ``near``, of questions with their own texts and with these without the answers; ``other``,
        of the own texts and those of other rows.
    :raises ExportError: too few questions, or any step that failed; nothing is left behind.
    """
    asked, aside = make_training_set(rows)
    if not aside:
        budget.announce("No source is kept aside, there are too few: nobody can say how good the reader is.")
    schedule = Schedule(EPOCHS, BATCH, RATE, budget.seconds)
    notes = Notes(cache_folder() / f"reader-{_digest(origin, asked, schedule)}")
    with staged(out) as stage, tempfile.TemporaryDirectory(prefix="reader-") as name:
        check_resources(origin.weights, origin.weights * BYTES_A_WEIGHT, Path(name), BYTES_A_WEIGHT)
        taught = Path(name) / "taught"
        _, context_length = read_pooling(origin.path)
        state = notes.state("taught")
        job = TrainingJob(origin.path, taught, schedule, aside, state, budget.on_progress, budget.debug)
        said = teach_reader(job, min(LONGEST, context_length), asked)
        fields, likeness = _fill(stage, taught, origin, budget)
        figures = {**measure(stage, [asked[number] for number in aside]), **likeness}
        write_report(stage, {**figures, **repeatable(said)})
        manifest = write_manifest(stage, fields)
    notes.remove()
    return manifest, {**figures, **said}


def _digest(origin: Origin, asked: Sequence[Asked], schedule: Schedule) -> str:
    """Of what is learned, on what and how long: the same command goes on with the same notes."""
    what = [origin.source.id, origin.source.revision, [asdict(one) for one in asked], asdict(schedule)]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


def export_cross_encoder(origin: Origin, out: Path, budget: Budget) -> tuple[Manifest, dict[str, Any]]:
    """Makes the bundle ``out`` of a checkpoint that was taught already, a cross-encoder.

    :return: its manifest, and how alike its vectors are to the float model's.
    :raises ExportError: it says anything but one number, or any step that failed; nothing is left behind.
    """
    with staged(out) as stage, tempfile.TemporaryDirectory(prefix="reader-") as name:
        taken = Path(name) / "encoder"
        take_apart(origin.path, taken, on_progress=budget.on_progress, debug=budget.debug)
        fields, likeness = _fill(stage, taken, origin, budget)
        load_encoder(stage).run(Read(_QUESTION, (_QUESTION,)))
        write_report(stage, likeness)
        manifest = write_manifest(stage, fields)
    return manifest, likeness


def _fill(stage: Path, taught: Path, origin: Origin, budget: Budget) -> tuple[dict[str, Any], dict[str, Any]]:
    """Makes a bundle in ``stage`` of an encoder with its layers, with a manifest that an engine can load.

    :return: the manifest's fields, and the report on its likeness to the float model.
    """
    pool_by_first_token(taught)
    of_encoder = fill_taught(taught, origin, stage, budget)
    import numpy as np

    with np.load(taught / LAYER, allow_pickle=False) as arrays:
        save_arrays(stage, dict(arrays))
    fields = {
        **{key: of_encoder[key] for key in ENCODER_FIELDS},
        "name": bundle_name(origin.source.id, "reader"),
        "kind": "head",
        "head": {"weights": WEIGHTS, "reads": "pairs"},
        "source": origin.source,
        "runtime": runtime_versions("onnxruntime", "torch", "transformers"),
        "created": created_at(origin.revised),
    }
    write_manifest(stage, fields)
    return fields, of_encoder["report"]


def pool_by_first_token(folder: Path) -> None:
    """Writes sentence-transformers' files of a checkpoint whose first token's vector is taken as it is."""
    (folder / "modules.json").write_text(json.dumps(_CLS))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))


# --- pairs -----------------------------------------------------------------------------------------


def make_training_set(rows: Sequence[QuestionRow]) -> tuple[list[Asked], list[int]]:
    """Questions with their texts, and which of them are kept aside. The first text is the question's own; a
    question that is learned from stands there once for each of ``LENGTHS``.

    :raises ExportError: fewer than ``FEWEST`` questions that are answered.
    """
    questions = [row for row in rows if row.question is not None]
    check_count(sum(row.answer is not None and not is_aside(row) for row in questions))
    asked: list[Asked] = []
    aside: list[int] = []
    chance = random.Random(0)
    strangers = [row for row in questions if row.answer is not None and not is_aside(row)]
    for whole, others in zip(questions, find_others(rows, questions), strict=True):
        if is_aside(whole):
            aside.append(len(asked))
            asked.append(_asked(whole, _with_and_without(whole, len(whole.text), chance), others))
            continue
        for lengths in LENGTHS:
            own = _with_and_without(whole, chance.randint(*lengths), chance)
            beside = [cropped(other, chance.randint(*lengths), chance) for other in others]
            own, beside = (
                [_disturbed(one, whole, strangers, chance) for one in texts] for texts in (own, beside)
            )
            asked.append(_asked(whole, own, beside))
    return asked, aside


def _asked(whole: QuestionRow, own: Sequence[QuestionRow], beside: Sequence[QuestionRow]) -> Asked:
    """The question of ``whole`` with texts of its own and of other rows, as they are shown."""
    texts = [
        PairText(with_heading(row.heading, row.text), row.answer is not None, _place(row)) for row in own
    ]
    others = [PairText(with_heading(row.heading, row.text), answers=False, is_own=False) for row in beside]
    return Asked(str(whole.question), (*texts, *others))


def _with_and_without(row: QuestionRow, words: int, chance: random.Random) -> list[QuestionRow]:
    """At most ``words`` around the answer, and as many without it where it can be left out: if one of both
    were shorter, that would be learned."""
    rest = _cut(row)
    if not rest:
        return [cropped(row, words, chance)]
    answering = sum(len(row.text[slice(*place)].split()) for place in _answering(row))
    words = min(words, max(LENGTHS[0][0], len(row.text.split()) - answering))
    without = _cut(cropped(row, words + answering, chance)) or [cropped(one, words, chance) for one in rest]
    return [cropped(row, words, chance), *without]


def _cut(row: QuestionRow) -> list[QuestionRow]:
    """The row without its answer, where there is one that can be left out."""
    text = without_answer(row)
    return [] if text is None else [replace(row, text=text, answer=None)]


def _disturbed(
    row: QuestionRow, whole: QuestionRow, strangers: Sequence[QuestionRow], chance: random.Random
) -> QuestionRow:
    """Some texts with a sentence more: an order what to answer, or what answers a question of another source
    than that of ``whole``, whose question is asked.

    Where a sentence that doesn't belong in its text is always the answer, that is what is learned to be
    looked for, and whoever can write into a document says what is quoted.
    """
    stranger = chance.choice(strangers)
    if chance.random() >= STRANGERS or source_of(stranger) == source_of(whole):
        return row
    if chance.random() < ORDERS:
        wanted = " ".join(stranger.text[slice(*(stranger.answer or (0, 0)))].split()[:_MOST_ORDERED])
        said = {"{question}": str(whole.question), "{word}": wanted}
        order = re.sub(r"\{question\}|\{word\}", lambda name: said[name[0]], chance.choice(load_orders()))
        return with_sentence(row, order, chance)
    places = _answering(stranger)
    if not places:
        return row
    return with_sentence(row, stranger.text[places[0][0] : places[-1][1]], chance)


@cache
def load_orders() -> tuple[str, ...]:
    """Texts that tell whoever reads them what to answer: ``{word}``, in some to ``{question}``."""
    return tuple(files("edgeslm_export").joinpath("orders.txt").read_text(encoding="utf-8").splitlines())


def with_sentence(row: QuestionRow, sentence: str, chance: random.Random) -> QuestionRow:
    """A sentence more, before, behind or between those of the text; none parts the answer."""
    start, end = row.answer or (0, 0)
    borders = [0, *(last for _, last in split_sentences(row.text))]
    at = chance.choice([border for border in borders if not start < border < end])
    text = f"{row.text[:at]} {sentence}{row.text[at:]}" if at else f"{sentence} {row.text}"
    if row.answer is None:
        return replace(row, text=text)
    shift = len(sentence) + 1 if at <= start else 0
    return replace(row, text=text, answer=(start + shift, end + shift))


def _answering(row: QuestionRow) -> list[Place]:
    """The sentences that the answer stands in."""
    start, end = row.answer or (0, 0)
    return [(first, last) for first, last in split_sentences(row.text) if first < end and start < last]


def cropped(row: QuestionRow, words: int, chance: random.Random) -> QuestionRow:
    """Whole sentences of some ``words`` in all around the answer, or around any sentence without one."""
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
    """Of the answer in the text as it is shown."""
    if row.answer is None:
        return None
    shift = len(with_heading(row.heading, row.text)) - len(row.text)
    return row.answer[0] + shift, row.answer[1] + shift


def without_answer(row: QuestionRow) -> str | None:
    """The text without the sentences that the answer stands in; None where too little is left or the same
    words stand there again, and where there is no answer."""
    if row.answer is None:
        return None
    start, end = row.answer
    answering = _answering(row)
    text = " ".join(row.text[slice(*at)] for at in split_sentences(row.text) if at not in answering)
    if bare_text(row.text[start:end]) in bare_text(text) or len(text) < (1 - _MOST_CUT) * len(row.text):
        return None
    return text or None


def find_others(rows: Sequence[QuestionRow], asked: Sequence[QuestionRow]) -> list[list[QuestionRow]]:
    """Of other rows a text that has most of each question's telling words (TF-IDF).

    Only for some of those that are answered, of sources that are kept aside as its own is, or aren't, and no
    text that may answer it as well: that is much the same as its own, or has the words of the answer.
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
    for at in range(0, len(asked), 200):  # so many rows of scores at once
        some = asked[at : at + 200]
        scores = (vectorizer.transform([str(row.question) for row in some]) @ columns).toarray()
        for row, of_row in zip(some, scores, strict=True):
            own = words_of(row.text)
            wanted = int(row.answer is not None and chance.random() < OTHERS)
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
    if is_aside(row) != is_aside(other) or much_alike(own, words):
        return True
    return row.answer is not None and bare_text(row.text[slice(*row.answer)]) in bare_text(other.text)


# --- what it is worth --------------------------------------------------------------------------------


def measure(bundle: Path, asked: Sequence[Asked]) -> dict[str, Any]:
    """What the bundle says of questions that it didn't learn from; nothing where there are none."""
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
