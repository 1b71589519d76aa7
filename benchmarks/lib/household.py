"""Sentences said to Home Assistant, with intent and slots.

Sampled from the templates of the package home-assistant-intents, read by hassil: one template in five is
kept for the test, so that what is tested was never seen in any wording. What a home brings (names of devices,
rooms and floors) is this module's; what people say freely (things to buy, names of timers) has other values
in the test. A text that two templates understand differently is left out.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from edgeslm.errors import ExportError

LANGUAGE: Final = "en"
HOME: Final[Mapping[str, tuple[str, ...]]] = {
    "area": (
        *("kitchen", "living room", "bedroom", "bathroom", "office", "garage", "hallway", "dining room"),
        *("nursery", "attic", "laundry room", "guest room", "garden", "porch"),
    ),
    "floor": ("ground", "first", "second", "upper", "basement"),
}
"""Of one home: a device knows what is in it, so train and test share it."""
NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "binary_sensor": ("bay window", "washing machine", "motion detector"),
    "button": ("doorbell", "reset button"),
    "climate": ("thermostat", "heat pump"),
    "cover": ("left blind", "garage door", "awning"),
    "fan": ("ceiling fan", "extractor"),
    "input_boolean": ("vacation mode", "guest mode"),
    "lawn_mower": ("mow bot", "grass cutter"),
    "light": ("desk lamp", "bed light", "hall lamp", "chandelier"),
    "lock": ("front door", "back gate"),
    "media_player": ("tv", "stereo", "radio"),
    "person": ("alice", "bob"),
    "scene": ("movie night", "good morning"),
    "script": ("bedtime routine", "leaving home"),
    "sensor": ("freezer", "outdoor sensor"),
    "switch": ("coffee machine", "water heater"),
    "todo": ("chores", "groceries"),
    "vacuum": ("robo", "dusty"),
    "valve": ("sprinkler", "main valve"),
    "weather": ("home weather", "station roof"),
}
"""Names of what is in that home, by the domain in Home Assistant that gives a sentence its meaning."""
FREE: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "shopping_list_item": (
        ("milk", "two apples", "brown bread", "olive oil", "toilet paper", "eggs", "rice", "dish soap"),
        ("butter", "green tea", "a bag of flour", "batteries", "cat food"),
    ),
    "todo_list_item": (
        ("call mum", "water the plants", "book a dentist", "fix the tap", "pay the rent", "wash the car"),
        ("feed the fish", "renew the passport", "mow the lawn", "clean the oven"),
    ),
    "timer_name": (
        ("pizza", "egg", "tea", "laundry", "homework", "oven", "nap", "workout"),
        ("pasta", "cake", "rice", "meeting", "charger"),
    ),
    "timer_command": (
        ("turn off the lights", "open the garage door", "lock the front door", "start the vacuum"),
        ("close the blinds", "pause the music", "turn on the heating"),
    ),
    "message": (
        ("dinner is ready", "we leave in ten minutes", "the parcel is here", "please come down"),
        ("the taxi is waiting", "time for bed", "somebody is at the door"),
    ),
    "search_query": (
        ("bohemian rhapsody", "the beatles", "morning jazz", "abbey road", "miles davis", "news hour"),
        ("kind of blue", "johnny cash", "rainy day piano", "radio science"),
    ),
    "zone": (("work", "school", "the gym"), ("the station", "grandma")),
}
"""Values of free text: for training and for the test."""


@dataclass(frozen=True, slots=True)
class Household:
    """Rows with ``text``, ``fields`` (``intent`` and the slots by name, all texts) and ``template``.

    The schema fixes the values of slots that Home Assistant has a list of; those of a home and free ones it
    leaves open.
    """

    train: list[dict[str, Any]]
    test: list[dict[str, Any]]
    schema: dict[str, Any]
    templates: tuple[int, int]
    """How many were learned from and tested with."""


def load_household(a_template: int, seed: int = 0) -> Household:
    """:param a_template: sentences of each. :raises ExportError: the packages aren't installed."""
    try:
        from hassil.intents import Intents
        from home_assistant_intents import get_intents
    except ImportError:
        raise ExportError(
            "This needs the packages home-assistant-intents and hassil (extra bench)."
        ) from None
    intents = Intents.from_dict(get_intents(LANGUAGE))
    choice = random.Random(seed)
    rows: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    counts, open_slots = {False: 0, True: 0}, set[str]()
    for name, intent in intents.intents.items():
        templates = [(data, sentence) for data in intent.data for sentence in data.sentences]
        choice.shuffle(templates)
        kept = len(templates) // 5
        for number, (data, sentence) in enumerate(templates):
            is_test = number < kept
            counts[is_test] += 1
            rules = {**intents.expansion_rules, **(data.expansion_rules or {})}
            lists = {**intents.slot_lists, **(data.slot_lists or {})}
            fixed = {slot: str(value) for slot, value in (data.slots or {}).items()}
            domains = (data.requires_context or {}).get("domain") or list(NAMES)
            names = [name for domain in domains for name in NAMES.get(domain, ())]
            for _ in range(a_template):
                speaker = _Speaker(choice, rules, lists, names, is_test, open_slots)
                said = " ".join(speaker.say(sentence.expression).split())
                meant = {"intent": name, **fixed, **speaker.slots}
                rows[is_test].append({"text": said, "fields": meant, "template": f"{name} {number}"})
    train, test = _unambiguous(rows[False], rows[True])
    schema = _schema([*train, *test], open_slots)
    return Household(train, test, schema, (counts[False], counts[True]))


@dataclass(slots=True)
class _Speaker:
    """Says one sentence of a template, each choice at random, and remembers the slots; ``open_slots`` gets
    the names of those that have no list of values."""

    choice: random.Random
    rules: Mapping[str, Any]
    lists: Mapping[str, Any]
    names: Sequence[str]
    is_test: bool
    open_slots: set[str]
    slots: dict[str, str] = field(default_factory=dict)

    def say(self, expression: Any) -> str:
        from hassil import expression as kinds

        match expression:
            case kinds.TextChunk():
                return str(expression.original_text)
            case kinds.Alternative():
                return self.say(self.choice.choice(expression.items))
            case kinds.Permutation():
                parts = list(expression.items)
                self.choice.shuffle(parts)
                return "".join(self.say(part) for part in parts)
            case kinds.Group():
                return "".join(self.say(part) for part in expression.items)
            case kinds.RuleReference():
                return self.say(self.rules[expression.rule_name].expression)
            case kinds.ListReference():
                said, value = self._value(expression)
                self.slots[expression.slot_name] = value
                return said
        raise TypeError(f"hassil has a kind of expression that isn't known here: {type(expression)}")

    def _value(self, reference: Any) -> tuple[str, str]:
        """What is said, and what it means."""
        from hassil.intents import RangeSlotList, TextSlotList

        name = reference.list_name
        values = self.lists.get(name)
        if not isinstance(values, TextSlotList) or name == "name" or name in HOME or name in FREE:
            self.open_slots.add(reference.slot_name)
        if name == "name" or name in HOME or name in FREE:
            own = self.names if name == "name" else HOME.get(name) or FREE[name][self.is_test]
            said = self.choice.choice(own)
            return said, said
        if isinstance(values, RangeSlotList):
            number = self.choice.choice(list(values.get_numbers()))
            return str(number), f"{number * (values.multiplier or 1):g}"
        if isinstance(values, TextSlotList):
            value = self.choice.choice(values.values)
            said = self.say(value.text_in)
            return said, str(value.value_out)
        raise TypeError(f"the list {name} is free text that has no values here")


def _unambiguous(
    train: list[dict[str, Any]], test: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Each text once, none with two meanings, and none in the test that is learned from."""
    meanings: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in [*train, *test]:
        if row["fields"] not in meanings[row["text"]]:
            meanings[row["text"]].append(row["fields"])
    seen: set[str] = set()
    kept: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for place, rows in enumerate((train, test)):
        for row in rows:
            if len(meanings[row["text"]]) == 1 and row["text"] not in seen:
                seen.add(row["text"])
                kept[place].append(row)
    return kept


def _schema(rows: list[dict[str, Any]], open_slots: Collection[str]) -> dict[str, Any]:
    values: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        for name, value in row["fields"].items():
            values[name].add(value)
    properties: dict[str, Any] = {"intent": {"enum": sorted(values.pop("intent"))}}
    for name, of_name in sorted(values.items()):
        properties[name] = {"type": "string"} if name in open_slots else {"enum": sorted(of_name)}
    return {"type": "object", "properties": properties, "required": ["intent"]}
