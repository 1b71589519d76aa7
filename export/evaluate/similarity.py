"""Encoder similarity: cosines to the float model's vectors, and rank agreement, on fixed texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

TEXTS = (
    # machines
    "The compressor in hall 4 vibrates more than yesterday.",
    "Compressor 4 is shaking badly since this morning.",
    "Oil pressure low on engine two, stop the machine at once!",
    "Engine 2 loses oil pressure.",
    "Which valve closes the coolant line of the second press?",
    "The coolant of press 2 is shut off with the red valve.",
    "Shift handover: bearing replaced, belt tension checked, restart at 06:15.",
    "We changed the bearing and tightened the belt, the line runs again.",
    "Die Pumpe ist laut und wird heiß.",
    "The pump is noisy and gets hot.",
    "Machine 7 needs a new filter before the weekend.",
    "A long report about maintenance begins with the date, the place and the names of all who were "
    "present, and goes on with the state of each "
    "machine, the parts that were replaced and those that have to be ordered.",
    # readings and logs
    "Ambient temperature 21.4 degrees, humidity 40 percent, no alarm.",
    "Temperature alarm: 96.2 degrees in the oven, limit is 90.",
    "{'sensor': 'flow-3', 'value': 0.02, 'unit': 'l/s'}",
    "flow-3: 1.97 l/s",
    "Failed password for invalid user admin from 10.0.0.7 port 51022 ssh2",
    "Accepted publickey for root from 10.0.0.12 port 40112 ssh2",
    "Connection closed by authenticating user git 10.0.0.7 port 51025 [preauth]",
    "ERROR 0x80070005: access denied while writing /var/log/app.log",
    "disk full: cannot write to /var/log",
    "kernel: Out of memory: Killed process 4312 (java)",
    "The service restarted three times within a minute.",
    # people
    "Congratulations! You have won a holiday, reply YES to claim your prize now.",
    "FREE entry in our weekly draw, text WIN to 80086",
    "Can you call me when you are at the station?",
    "Call me back as soon as you get off the train.",
    "ok",
    "Thanks a lot, see you tomorrow.",
    "I am running late, start without me.",
    "The invoice of March has not been paid yet, please check the account.",
    "When is the payment for the last bill due?",
    "My order arrived damaged and I want my money back.",
    "How do I return a broken product?",
    "Where can I change my password?",
    # home and knowledge
    "turn off the lights in the kitchen",
    "switch the kitchen lamp off",
    "set the living room to 21 degrees",
    "is the garage door closed?",
    "What is the capital of Norway?",
    "Oslo is the largest city of Norway.",
    "Who wrote the first novel about a submarine?",
    "How far is it from the earth to the moon?",
    "The moon is about 384,000 kilometres away.",
    "def area(radius): return 3.14159 * radius ** 2",
    "SELECT name FROM machines WHERE state = 'stopped'",
    "rain is expected in the evening, wind from the west",
    "The weather tomorrow: sunny, 24 degrees.",
)
"""Texts like those that devices embed, many with a near neighbour among the others."""

NEAREST = 5


def similarity(expected: Floats, found: Floats) -> dict[str, Any]:
    """Compares ``found`` with ``expected``, both [texts, dimension] with more than ``NEAREST`` texts.

    :return: a dict with ``cosine_to_float`` (mean and lowest cosine of a text's two vectors) and
        ``rank_agreement``. For rank agreement, all other texts are ranked by their cosine to each text. In
        ``rank_agreement``, ``spearman`` is the mean rank correlation (Spearman 1904), ``nearest`` the share
        of texts with the same nearest neighbour, and ``nearest_5`` the mean overlap of the five nearest
        neighbours.
    """
    import numpy as np

    expected, found = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (expected, found))
    cosine = (expected * found).sum(axis=1)
    others = ~np.eye(len(expected), dtype=bool)
    wanted, got = ((each @ each.T)[others].reshape(len(each), -1) for each in (expected, found))
    near_wanted, near_got = (np.argsort(-each, axis=1, kind="stable")[:, :NEAREST] for each in (wanted, got))
    same = [len(set(a) & set(b)) for a, b in zip(near_wanted, near_got, strict=True)]
    return {
        "cosine_to_float": {
            "mean": round(float(cosine.mean()), 4),
            "lowest": round(float(cosine.min()), 4),
        },
        "rank_agreement": {
            "spearman": round(float(_spearman(wanted, got).mean()), 4),
            "nearest": round(float((near_wanted[:, 0] == near_got[:, 0]).mean()), 3),
            f"nearest_{NEAREST}": round(sum(same) / (NEAREST * len(same)), 3),
        },
    }


def _spearman(wanted: Floats, got: Floats) -> Floats:
    """Spearman's rank correlation of each row [n]; ties are ignored, since float cosines hardly have any."""
    import numpy as np

    ranks = [np.argsort(np.argsort(each, axis=1), axis=1).astype(np.float64) for each in (wanted, got)]
    a, b = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
    return np.asarray((a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1)), np.float32)
