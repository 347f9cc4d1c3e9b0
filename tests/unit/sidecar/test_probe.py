"""Probes: whatever hangs, whoever asks gets an answer in time, and the question is asked once."""

from __future__ import annotations

import threading
import time

import pytest

from relaypacs.sidecar.probe import NoAnswer, Probe


def test_an_answer_is_given_again_while_fresh() -> None:
    asked: list[int] = []
    probe = Probe(lambda: len(asked) or asked.append(1) or 0, deadline_seconds=5, fresh_seconds=60)
    assert [probe.answer(), probe.answer()] == [0, 0]


def test_a_stale_answer_is_asked_for_again() -> None:
    numbers = iter(range(9))
    probe = Probe(lambda: next(numbers), deadline_seconds=5, fresh_seconds=0)
    assert [probe.answer(), probe.answer()] == [0, 1]


def test_an_error_is_an_answer_and_the_next_question_is_new() -> None:
    def ask() -> str:
        raise OSError("no such disk")

    probe = Probe(ask, deadline_seconds=5, fresh_seconds=0)
    for _ in range(2):
        with pytest.raises(OSError, match="no such disk"):
            probe.answer()


def test_a_timeout_of_the_question_itself_is_its_error() -> None:
    def ask() -> str:
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        Probe(ask, deadline_seconds=5, fresh_seconds=0).answer()


def test_a_question_that_hangs_is_given_up_and_not_asked_twice() -> None:
    release, asked = threading.Event(), []

    def ask() -> str:
        asked.append(1)
        release.wait(20)
        return "at last"

    probe = Probe(ask, deadline_seconds=0.2, fresh_seconds=60)
    began = time.monotonic()
    for _ in range(5):
        with pytest.raises(NoAnswer):
            probe.answer()
    assert time.monotonic() - began < 2, "only the first asker waits for the whole deadline"
    assert len(asked) == 1
    release.set()
    for _ in range(100):
        try:
            assert probe.answer() == "at last"
            break
        except NoAnswer:
            time.sleep(0.02)
    else:
        pytest.fail("the late answer never came")
    assert len(asked) == 1


def test_many_askers_share_one_question() -> None:
    asked = []

    def ask() -> int:
        asked.append(1)
        time.sleep(0.2)
        return 7

    probe = Probe(ask, deadline_seconds=5, fresh_seconds=60)
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(probe.answer())) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [7] * 20
    assert len(asked) == 1
