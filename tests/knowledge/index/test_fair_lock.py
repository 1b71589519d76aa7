"""Threads that follow each other as they came."""

from __future__ import annotations

import threading
import time

from edgeslm.knowledge.index.fair_lock import FairLock


def test_who_came_first_goes_first() -> None:
    turns, order, threads = FairLock(), list[int](), list[threading.Thread]()

    def take(number: int) -> None:
        with turns:
            order.append(number)

    with turns:
        for number in range(5):
            threads.append(threading.Thread(target=take, args=(number,)))
            threads[-1].start()
            while turns._next < number + 2:
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4]


def test_one_that_asks_again_and_again_lets_the_others_in() -> None:
    turns, is_in, ends = FairLock(), threading.Event(), threading.Event()

    def again() -> None:
        while not ends.is_set():
            with turns:
                is_in.set()

    thread = threading.Thread(target=again)
    thread.start()
    assert is_in.wait(60)
    for _ in range(100):
        with turns:
            pass
    ends.set()
    thread.join()


def test_an_error_ends_a_turn() -> None:
    turns = FairLock()
    for _ in range(2):
        try:
            with turns:
                raise KeyError
        except KeyError:
            pass
