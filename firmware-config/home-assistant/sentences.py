"""Sentences of a home for training the task in household.yaml, as JSON lines with their fields.

python3 firmware-config/home-assistant/sentences.py --names "kitchen light" --areas kitchen >sentences.jsonl

Names and areas are those of Home Assistant. Add sentences of your own, as people say them in your home.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

INTENTS = {"on": "HassTurnOn", "off": "HassTurnOff"}
OF_A_NAME = (
    *("turn {way} the {name}", "turn the {name} {way}", "switch {way} the {name}", "{name} {way}"),
    *("please switch the {name} {way}", "could you turn {way} my {name}", "put the {name} {way}"),
)
OF_AN_AREA = (
    *("turn {way} the lights in the {area}", "lights {way} in the {area}", "{area} lights {way}"),
    *("switch the lights {way} in the {area}", "please turn all lights in the {area} {way}"),
)


def rows(names: Sequence[str], areas: Sequence[str]) -> Iterator[dict[str, Any]]:
    for (way, intent), sentence, name in product(INTENTS.items(), OF_A_NAME, names):
        yield {"text": sentence.format(way=way, name=name), "fields": {"intent": intent, "name": name}}
    for (way, intent), sentence, area in product(INTENTS.items(), OF_AN_AREA, areas):
        fields = {"intent": intent, "area": area, "domain": "light"}
        yield {"text": sentence.format(way=way, area=area), "fields": fields}


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes sentences for training, as JSON lines.")
    parser.add_argument("--names", nargs="+", required=True, help="devices, as 'kitchen light'")
    parser.add_argument("--areas", nargs="+", default=[], help="rooms with lights, as kitchen")
    arguments = parser.parse_args()
    for row in rows(arguments.names, arguments.areas):
        sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
