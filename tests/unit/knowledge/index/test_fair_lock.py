"""Threads that follow each other as they came."""

from __future__ import annotations

import threading
import time

from edgeslm.knowledge.index.fair_lock import FairLock


def test_who_came_first_goes_first() -> None:
    lock, order, threads = FairLock(), list[int](), list[threading.Thread]()

    def take(number: int) -> None:
        with lock:
            order.append(number)

    with lock:
        for number in range(5):
            threads.append(threading.Thread(target=take, args=(number,)))
            threads[-1].start()
            while lock._next < number + 2:
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4]


def test_one_that_asks_again_and_again_lets_the_others_in() -> None:
    lock, is_in, ends = FairLock(), threading.Event(), threading.Event()

    def again() -> None:
        while not ends.is_set():
            with lock:
                is_in.set()

    thread = threading.Thread(target=again)
    thread.start()
    assert is_in.wait(60)
    for _ in range(100):
        with lock:
            pass
    ends.set()
    thread.join()


def test_an_error_ends_a_turn() -> None:
    lock = FairLock()
    for _ in range(2):
        try:
            with lock:
                raise KeyError
        except KeyError:
            pass
