from __future__ import annotations

from edgeslm.dispatcher.throughput import FIRST_PATIENCE_S, LEAST_PATIENCE_S, MEMORY_S, Throughput


def test_what_is_not_known_is_none_and_patience_is_long() -> None:
    throughput = Throughput()
    assert throughput.service_s("a", "label", 0.0) is None
    assert throughput.patience_s("a", "label", 0.0) == FIRST_PATIENCE_S


def test_a_mean_follows_a_node_that_slows_down() -> None:
    throughput = Throughput()
    for number in range(50):
        throughput.learn("a", "label", service_s=0.1, answer_s=0.1, now=number)
    assert abs((throughput.service_s("a", "label", 50) or 0) - 0.1) < 1e-9
    assert throughput.patience_s("a", "label", 0.1) == LEAST_PATIENCE_S
    for number in range(50):
        throughput.learn("a", "label", service_s=1.0, answer_s=2.0, now=50 + number)
    assert 0.95 < (throughput.service_s("a", "label", 100) or 0) <= 1.0
    assert throughput.patience_s("a", "label", 1.0) >= 8.0
    assert throughput.figures("a") == {
        "label": round(1000 * (throughput.service_s("a", "label", 100) or 0), 1)
    }


def test_what_is_old_or_forgotten_is_tried_anew() -> None:
    throughput = Throughput()
    throughput.learn("a", "label", service_s=1.0, answer_s=1.0, now=0.0)
    assert throughput.service_s("a", "label", MEMORY_S + 1) is None
    throughput.learn("a", "label", service_s=0.1, answer_s=0.1, now=MEMORY_S + 1)
    assert throughput.service_s("a", "label", MEMORY_S + 1) == 0.1
    throughput.forget("a")
    assert throughput.figures("a") == {}
