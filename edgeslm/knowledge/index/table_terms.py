"""Vocabulary of table questions: word normalisation, and lists of operations, comparisons and units.

The lists are general English. A table's own vocabulary comes from its column names and cells.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from enum import Enum

LONGEST_KEY = 80
"""Maximum length of a cell that a question can name, in characters."""

_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


class Operation(Enum):
    """How a query aggregates the selected rows."""

    COUNT = "count"
    DISTINCT = "different"
    TOTAL = "total"
    AVERAGE = "average"
    LARGEST = "largest"
    SMALLEST = "smallest"
    LATEST = "latest"
    EARLIEST = "earliest"


class Comparator(Enum):
    """How a cell is compared with a value."""

    ABOVE = "above"
    AT_LEAST = "at least"
    BELOW = "below"
    AT_MOST = "at most"
    BETWEEN = "between"
    AFTER = "after"
    BEFORE = "before"


def fold(text: str) -> str:
    """Converts a text to lower case without accents."""
    if text.isascii():
        return text.lower()
    return "".join(
        mark for mark in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(mark)
    )


def parse_name(text: str) -> list[str]:
    """Splits the name of a column or file into lower-case words; ``pressBar_max`` has the words ``press``,
    ``bar`` and ``max``."""
    return _WORD.findall(fold(_CAMEL.sub(" ", text)))


def words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


def key_of(text: str) -> str:
    """Normalised text for matching cells with questions: singular words without case and accents; "" if the
    text has no words."""
    return " ".join(map(singular, _WORD.findall(fold(text))))


def singular(word: str) -> str:
    """Removes a plural ending. Cells don't use :func:`stem`, so that ``Billings`` doesn't match ``Bill``."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("sses", "shes", "ches", "xes", "zes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word[-1] == "s" and word[-2] not in "sui" else word


def stem(word: str) -> str:
    """Removes plural, past and ``-ing`` endings from a word of a column name."""
    word = singular(word)
    for ending in ("ing", "ed"):
        rest = word[: -len(ending)]
        if word.endswith(ending) and len(rest) > 2 and re.search("[aeiouy]", rest):
            if rest[-1] == rest[-2] and rest[-1] not in "ls":
                return rest[:-1]
            return rest.removesuffix("e")
    return word[:-1] if len(word) > 3 and word[-1] == "e" else word


SAME = {
    **dict.fromkeys(("temperature", "temperatures", "temps"), "temp"),
    **dict.fromkeys(("maximum", "maximal", "maxima"), "max"),
    **dict.fromkeys(("minimum", "minimal", "minima"), "min"),
    **dict.fromkeys(("average", "mean"), "avg"),
    **dict.fromkeys(("quantity", "quantities"), "qty"),
    **dict.fromkeys(("description", "descriptions"), "desc"),
    **dict.fromkeys(("department", "departments"), "dept"),
    **dict.fromkeys(("number", "nr", "num", "no"), "number"),
    **dict.fromkeys(("identifier", "identifiers", "ident"), "id"),
    **dict.fromkeys(("latitude", "latitudes"), "lat"),
    **dict.fromkeys(("longitude", "longitudes", "lng"), "lon"),
    **dict.fromkeys(("percentage", "percent"), "pct"),
    **dict.fromkeys(("reference", "references"), "ref"),
    **dict.fromkeys(("kilometres", "kilometers", "kilometre", "kilometer"), "km"),
    **dict.fromkeys(("address", "addresses"), "addr"),
}
"""Maps a word to the form in which words are compared, usually an abbreviation, such as ``temp`` for
``temperature``."""


def alike(word: str) -> str:
    """Normalised form of a word, for comparing column names with questions."""
    return stem(SAME.get(word, word))


GENERIC = frozenset({"code", "id", "name", "number", "date", "value", "time", "key", "label", "title"})
"""Last words of column names that state only a type, as in ``order_id`` or ``start date``."""

FUNCTION = words_of(
    "a an the of in on at for from to into onto with within during is are was were be been being am do does "
    "did done has have had having it its this that these those there here which what who whom whose when "
    "where how much please me my i we us our you your can could would shall tell show give get got find want "
    "need look and as s so hi hello thanks thank let say says said see their they them he she his her any "
    "all also exactly like know"
)
"""Function words, which are ignored in a question. ``not``, ``or``, ``per``, ``each``, ``by``, ``other`` and
``than`` are excluded: a question in which such a word isn't understood is not answered."""
NEUTRAL = words_of(
    "recorded measured listed noted observed given reported registered shown reached occurred happened value "
    "reading table data list file dataset sheet spreadsheet csv ever"
)
"""Further words that are ignored in a question, unless a column has that name."""

COUNTING = frozenset({"most", "fewest", "least"})
"""Superlatives that may refer to the sum or number of several rows, instead of the value of one cell."""
TOTALS = ("total", "totals", "sum", "grand total", "subtotal", "average", "mean")
"""Texts of cells that mark a row of totals."""

INTRODUCING = frozenset({"code", "id", "number", "name", "key", "called", "named"})
"""Words that are ignored before a cell's text, as in ``the part called V-12``."""

_PHRASES = {
    Operation.COUNT: "how many, number of, the number of, total number of, count",
    Operation.DISTINCT: (
        "how many different, how many distinct, how many unique, number of different, number of distinct, "
        "number of unique, count of different, count of distinct"
    ),
    Operation.TOTAL: "total, totals, total amount, in total, sum, sum up, added up, altogether, all together",
    Operation.AVERAGE: "average, averaged, on average, avg, mean, in the mean",
    Operation.LARGEST: (
        "highest, largest, biggest, greatest, maximum, max, maximal, most, strongest, top, peak, peaks"
    ),
    Operation.SMALLEST: "lowest, smallest, least, minimum, min, minimal, fewest, weakest",
    Operation.LATEST: "latest, last, newest, most recent, most recently",
    Operation.EARLIEST: "earliest, first",
}
PHRASES = {phrase: operation for operation, listed in _PHRASES.items() for phrase in listed.split(", ")}

_COMPARISONS = {
    Comparator.ABOVE: (
        "above, over, more than, greater than, higher than, larger than, bigger than, stronger than, exceed, "
        "exceeds, exceeded, exceeding, in excess of, upwards of, >"
    ),
    Comparator.AT_LEAST: (
        "at least, no less than, not less than, no fewer than, not below, minimum of, a minimum of, since, "
        "starting from, ≥, > ="
    ),
    Comparator.BELOW: (
        "below, under, beneath, less than, fewer than, lower than, smaller than, weaker than, <"
    ),
    Comparator.AT_MOST: (
        "at most, no more than, not more than, not above, not over, up to, maximum of, a maximum of, until, "
        "till, up until, ≤, < ="
    ),
    Comparator.BETWEEN: "between, in between, ranging from",
    Comparator.AFTER: "after, later than, newer than, more recent than",
    Comparator.BEFORE: "before, earlier than, older than, prior to",
}
COMPARISONS = {phrase: each for each, listed in _COMPARISONS.items() for phrase in listed.split(", ")}
_BEHIND = {
    Comparator.AT_LEAST: "or more, or above, or higher, or over, or later, or newer",
    Comparator.AT_MOST: "or less, or below, or lower, or fewer, or under, or earlier",
}
BEHIND = {phrase: each for each, listed in _BEHIND.items() for phrase in listed.split(", ")}
"""Comparisons that follow their value, as in ``5 bar or more``."""
EMPTY_COMPARISONS = frozenset({"since", "until", "till"})
"""Comparisons that are ignored if no value follows, as in ``since when``."""


@dataclass(frozen=True, slots=True)
class Measure:
    """What an adjective such as ``hottest`` measures, and whether it means the largest or smallest value."""

    dimensions: frozenset[str]
    """Words of column names for what is measured, normalised by :func:`alike`."""
    most: Operation


def _measure(words: str, dimensions: str, most: Operation) -> dict[str, Measure]:
    found = Measure(frozenset(map(alike, dimensions.split())), most)
    return dict.fromkeys(words.split(), found)


_LONG = "length duration distance runtime"
_PRICE = frozenset(map(alike, ("price", "cost")))
SUPERLATIVES: dict[str, Measure] = {
    **_measure("hottest warmest", "temperature heat", Operation.LARGEST),
    **_measure("coldest coolest", "temperature", Operation.SMALLEST),
    **_measure("heaviest", "weight mass", Operation.LARGEST),
    **_measure("lightest", "weight mass", Operation.SMALLEST),
    **_measure("longest", _LONG, Operation.LARGEST),
    **_measure("shortest", f"{_LONG} height", Operation.SMALLEST),
    **_measure("tallest", "height", Operation.LARGEST),
    **_measure("highest", "height elevation altitude", Operation.LARGEST),
    **_measure("deepest", "depth", Operation.LARGEST),
    **_measure("widest broadest", "width", Operation.LARGEST),
    **_measure("narrowest", "width", Operation.SMALLEST),
    **_measure("thickest", "thickness", Operation.LARGEST),
    **_measure("thinnest", "thickness", Operation.SMALLEST),
    **_measure("fastest quickest", "speed velocity", Operation.LARGEST),
    **_measure("slowest", "speed velocity", Operation.SMALLEST),
    **_measure("cheapest", "price cost", Operation.SMALLEST),
    "most expensive": Measure(_PRICE, Operation.LARGEST),
    "least expensive": Measure(_PRICE, Operation.SMALLEST),
    **_measure("dearest costliest priciest", "price cost", Operation.LARGEST),
    **_measure("loudest noisiest", "noise loudness", Operation.LARGEST),
    **_measure("quietest", "noise loudness", Operation.SMALLEST),
    **_measure("wettest rainiest", "rain rainfall precipitation", Operation.LARGEST),
    **_measure("windiest", "wind", Operation.LARGEST),
    **_measure("oldest", "age", Operation.LARGEST),
    **_measure("youngest", "age", Operation.SMALLEST),
    **_measure("northernmost", "latitude", Operation.LARGEST),
    **_measure("southernmost", "latitude", Operation.SMALLEST),
}
COMPARATIVES: dict[str, Measure] = {
    **_measure("hotter warmer", "temperature heat", Operation.LARGEST),
    **_measure("colder cooler", "temperature", Operation.SMALLEST),
    **_measure("heavier", "weight mass", Operation.LARGEST),
    **_measure("lighter", "weight mass", Operation.SMALLEST),
    **_measure("longer", _LONG, Operation.LARGEST),
    **_measure("shorter", f"{_LONG} height", Operation.SMALLEST),
    **_measure("taller", "height", Operation.LARGEST),
    **_measure("deeper", "depth", Operation.LARGEST),
    **_measure("wider", "width", Operation.LARGEST),
    **_measure("thicker", "thickness", Operation.LARGEST),
    **_measure("faster", "speed velocity", Operation.LARGEST),
    **_measure("slower", "speed velocity", Operation.SMALLEST),
    **_measure("cheaper", "price cost", Operation.SMALLEST),
    "more expensive": Measure(_PRICE, Operation.LARGEST),
    "less expensive": Measure(_PRICE, Operation.SMALLEST),
    **_measure("louder", "noise loudness", Operation.LARGEST),
}
"""Adjectives that are comparisons if ``than`` follows."""

_UNITS = {
    "c": "c celsius centigrade °c",
    "f": "f fahrenheit °f",
    "k": "kelvin",
    "kg": "kg kgs kilo kilos kilogram kilograms kilogramme",
    "g": "g gram grams",
    "t": "t ton tons tonne tonnes",
    "lb": "lb lbs pound pounds",
    "mm": "mm millimeter millimeters millimetre millimetres",
    "cm": "cm centimeter centimeters centimetre centimetres",
    "m": "m meter meters metre metres",
    "km": "km kilometer kilometers kilometre kilometres",
    "in": "inch inches",
    "ft": "ft feet foot",
    "mi": "mi mile miles",
    "mph": "mph",
    "kmh": "kmh kph",
    "ms": "ms millisecond milliseconds",
    "s": "s sec secs second seconds",
    "min": "min mins minute minutes",
    "h": "h hr hrs hour hours",
    "d": "days",
    "bar": "bar bars",
    "mbar": "mbar millibar",
    "psi": "psi",
    "pa": "pa pascal",
    "kpa": "kpa",
    "mpa": "mpa",
    "hpa": "hpa",
    "v": "v volt volts",
    "mv": "mv millivolt millivolts",
    "a": "a amp amps ampere amperes",
    "ma": "ma milliamp milliamps",
    "w": "w watt watts",
    "kw": "kw kilowatt kilowatts",
    "kwh": "kwh",
    "wh": "wh",
    "hz": "hz hertz",
    "khz": "khz",
    "rpm": "rpm",
    "hp": "hp",
    "l": "l liter liters litre litres",
    "ml": "ml milliliter milliliters millilitre millilitres",
    "n": "newton newtons",
    "kn": "kn",
    "nm": "nm",
    "db": "db decibel decibels",
    "ppm": "ppm",
    "pct": "% pct percent",
    "eur": "€ eur euro euros",
    "usd": "$ usd dollar dollars",
    "gbp": "£ gbp",
    "deg": "° degree degrees deg",
}
UNITS = {word: unit for unit, words in _UNITS.items() for word in words.split()}
"""Units by their spelling. ``deg`` may mean any unit in :data:`DEGREES`."""
DEGREES = frozenset({"c", "f", "k", "deg"})
"""Units that the word ``degrees`` may mean."""
MINUTES_OF = frozenset(map(alike, words_of("runtime downtime uptime duration time length delay wait")))
"""Words of column names that make the ending ``_min`` mean minutes instead of minimum."""

DAYS = frozenset({"day", "days", "date", "dates"})
"""Words that refer to rows, in a table with one row per day."""
ROWS = words_of("row rows entry entries record records item items line lines readings values")
NAMING = frozenset(map(alike, ("id", "number", "code", "year", "zip", "phone", "index")))
"""Words in the names of columns whose numbers are identifiers, which are not summed."""
STATES = frozenset(
    map(
        alike,
        words_of(
            "temperature pressure humidity speed velocity voltage current frequency price rate ratio level "
            "score rating age year latitude longitude height width density max min avg"
        ),
    )
)
STATE_UNITS = words_of("c f k deg pct bar mbar psi pa kpa mpa hpa v mv a ma hz khz rpm db ppm mph kmh")
"""Units of momentary values, which are compared but not summed. :data:`STATES` has words for such values in
column names."""
LABELS = ("name", "title", "label", "id")
"""Names of columns that identify a row, in order of preference."""
DENIALS = frozenset({"not", "t", "without", "except", "excluding", "never", "neither", "nor", "no", "none"})
"""Negations, which are not supported: a question with a negation is not answered."""
