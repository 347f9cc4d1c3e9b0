"""Receipts over the node's socket: given or not given, never false, and asked again after a restart."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from relaypacs.model import Committed
from relaypacs.wake.receipts import ReceiptAsker, ReceiptSocket, Wish

HERE = Committed("ab" * 16, 3, 0, 8192)


class Desk:
    """Answers every wish for an even end, in a thread."""

    def __init__(self, path: Path) -> None:
        self.socket = ReceiptSocket(path)
        self.wishes: list[Wish] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.is_set():
            for wish, answer in self.socket.wait(None):
                self.wishes.append(wish)
                if wish.end % 2 == 0:
                    answer()

    def close(self) -> None:
        self._stopped.set()
        self.socket.poke()
        self._thread.join()
        self.socket.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "receipts.sock"


@pytest.fixture
def asker(path: Path) -> Iterator[ReceiptAsker]:
    asker = ReceiptAsker(path)
    yield asker
    asker.close()


@pytest.fixture
def desk(path: Path) -> Iterator[Desk]:
    desk = Desk(path)
    yield desk
    desk.close()


def test_a_receipt_comes_as_soon_as_it_is_given(desk: Desk, asker: ReceiptAsker) -> None:
    started = time.monotonic()
    assert asker.wait(HERE, "1.2.3 ä\udce4", 10.0)
    assert time.monotonic() - started < 5.0
    (wish,) = desk.wishes
    assert (wish.generation, wish.end, wish.sop_instance_uid) == (HERE.generation, 8192, "1.2.3 ä\udce4")
    assert started < wish.until < started + 15.0


def test_what_is_not_answered_in_time_is_not_given(desk: Desk, asker: ReceiptAsker) -> None:
    assert not asker.wait(Committed("ab" * 16, 3, 0, 8191), "1.2.3", 0.3)
    assert len(desk.wishes) == 1, "asked once as long as somebody listens"
    assert asker.wait(HERE, "", 10.0)


def test_without_anybody_there_the_time_passes(asker: ReceiptAsker) -> None:
    started = time.monotonic()
    assert not asker.wait(HERE, "1.2.3", 0.2)
    assert 0.15 < time.monotonic() - started < 5.0


def test_after_a_restart_it_is_asked_again(path: Path, asker: ReceiptAsker) -> None:
    first = ReceiptSocket(path)
    given: list[bool] = []
    waits = threading.Thread(target=lambda: given.append(asker.wait(HERE, "1.2.3", 20.0)))
    waits.start()
    while not first.wait(5.0):
        pass
    first.close()  # it dies without an answer
    second = Desk(path)
    waits.join()
    second.close()
    assert given == [True]


def test_each_gets_its_own_answer(desk: Desk, asker: ReceiptAsker) -> None:
    given: dict[int, bool] = {}

    def ask(number: int) -> None:
        given[number] = asker.wait(Committed("ab" * 16, number, 0, number), str(number), 2.0)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert given == {number: number % 2 == 0 for number in range(40)}


def test_a_process_out_of_threads_asks_again_when_there_are_some(desk: Desk, asker: ReceiptAsker) -> None:
    usual = threading.stack_size(1 << 46)  # more than there is: no thread can begin
    try:
        assert not asker.wait(HERE, "1.2.3", 0.05)
    finally:
        threading.stack_size(usual)
    assert asker.wait(HERE, "1.2.3", 10.0)
