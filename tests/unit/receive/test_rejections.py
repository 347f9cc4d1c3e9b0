"""Refusals are told once at once and then counted, and however many try, little is kept and little is said."""

from __future__ import annotations

import random

from relaypacs.receive.rejections import (
    FORGET_SECONDS,
    LINES,
    LONGEST_CONTEXTS_BYTES,
    MOST_KINDS,
    MOST_KINDS_OF_ADDRESS,
    NEW_KINDS_PER_HOUR,
    REPEAT_SECONDS,
    Refusal,
    Rejections,
)

WORDS = ("calling-ae", "called-ae", "association-rate")


def refusal(
    calling: str = "CT_9", host: str = "10.1.2.3", *, word: str = "calling-ae", contexts: bytes = b""
) -> Refusal:
    return Refusal(host, f"{host}:4242", calling, "RELAYPACS", word, "no", contexts=contexts)


def test_the_first_is_due_at_once_and_the_others_as_a_number() -> None:
    kept = Rejections()
    assert kept.due_in(100.0) is None
    assert kept.note(refusal(), 100.0)
    assert kept.due_in(100.0) == 0.0
    (first,) = kept.due(100.0)
    assert (first.tries, first.began_at, first.last_at, first.refusal) == (1, 100.0, 100.0, refusal())
    assert kept.due(100.0) == []
    assert kept.due_in(101.0) is None
    for second in range(1, 11):
        kept.note(refusal(), 100.0 + second)
    assert kept.due(110.0) == []
    assert kept.due_in(110.0) == REPEAT_SECONDS - 10.0
    (again,) = kept.due(100.0 + REPEAT_SECONDS)
    assert (again.row, again.tries, again.began_at, again.last_at) == (first.row, 11, 100.0, 110.0)


def test_what_is_left_is_due_at_the_end() -> None:
    kept = Rejections()
    kept.note(refusal(), 1.0)
    kept.due(1.0)
    kept.note(refusal(), 2.0)
    assert [one.tries for one in kept.due(3.0, everything=True)] == [2]


def test_each_cause_and_each_peer_is_of_its_own_kind() -> None:
    kept = Rejections()
    different = [refusal(), refusal("CT_8"), refusal(host="10.1.2.4"), refusal(word="called-ae")]
    for one in different:
        kept.note(one, 1.0)
    assert [one.refusal for one in kept.due(1.0)] == different


def test_a_few_lines_a_minute() -> None:
    kept = Rejections()
    assert [bool(kept.note(refusal(), 1.0)) for _ in range(50)].count(True) == LINES
    kept.due(1.0)
    assert not kept.note(refusal(), 2.0)
    (again,) = kept.due(1.0 + REPEAT_SECONDS)
    assert again.lines_left_out == 1
    assert kept.note(refusal(), 70.0)


def test_after_a_quiet_hour_it_is_a_new_one() -> None:
    kept = Rejections()
    kept.note(refusal(), 1.0)
    (first,) = kept.due(1.0)
    kept.note(refusal(), 2.0 + FORGET_SECONDS)
    (second,) = kept.due(2.0 + FORGET_SECONDS)
    assert second.row != first.row
    assert second.tries == 1


def test_many_titles_of_one_address_are_counted_together() -> None:
    kept = Rejections()
    for number in range(5000):
        kept.note(refusal(f"CT_{number}"), 1.0)
    told = kept.due(1.0)
    assert len(told) == MOST_KINDS_OF_ADDRESS + 1
    assert sum(one.tries for one in told) == 5000
    together = told[-1].refusal
    assert (together.calling_ae, together.called_ae, together.host) == ("", "", "10.1.2.3")
    assert "many AE titles" in together.sentence


def test_many_addresses_are_counted_together_and_memory_is_bounded() -> None:
    kept = Rejections()
    chance = random.Random(4)
    tried = told = lines = 0
    for second in range(4 * 3600):
        for _ in range(10):
            host = f"{chance.randrange(1, 224)}.{chance.randrange(256)}.{chance.randrange(256)}.7"
            asked = refusal(f"X{chance.random()}", host, word=chance.choice(WORDS), contexts=b"x" * 100)
            lines += bool(kept.note(asked, float(second)))
            tried += 1
        told += len(kept.due(float(second)))
    kinds = len(kept._kept)
    assert kinds <= MOST_KINDS + len(WORDS)
    assert len(kept._of_address) <= kinds
    # New ones by the hour, and a number each minute for those that go on.
    assert told <= 4 * NEW_KINDS_PER_HOUR + len(WORDS) * (4 * 60 + 2)
    assert lines <= 4 * NEW_KINDS_PER_HOUR + len(WORDS) * LINES * (4 * 60 + 2)
    (last, *_) = kept.due(1e9, everything=True)
    assert last.refusal.peer == ""


def test_what_was_proposed_is_told_once_and_not_kept() -> None:
    kept = Rejections()
    kept.note(refusal(contexts=b"proposed"), 1.0)
    kept.note(refusal("BIG", contexts=b"x" * (LONGEST_CONTEXTS_BYTES + 1)), 1.0)
    assert [one.refusal.contexts for one in kept.due(1.0)] == [b"proposed", b""]
    kept.note(refusal(contexts=b"proposed"), 2.0)
    assert [one.refusal.contexts for one in kept.due(3.0, everything=True)] == [b""]


def test_a_clock_that_goes_back_loses_nothing() -> None:
    kept = Rejections()
    kept.note(refusal(), 10_000.0)
    kept.due(10_000.0)
    kept.note(refusal(), 5.0)
    assert [one.tries for one in kept.due(5.0, everything=True)] == [2]
