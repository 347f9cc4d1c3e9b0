"""What intake makes of the events that tell of associations, those of earlier versions included."""

from __future__ import annotations

from typing import Any

import pytest

from relaypacs.intake.arrival import association_ends
from relaypacs.model import Committed, EventRecord

END: dict[str, Any] = {
    "association_id": "a1",
    "calling_ae": "CT_1",
    "called_ae": "RELAYPACS",
    "peer": "10.0.0.5:4242",
    "started_at": 1.5,
    "ended_at": 2.5,
    "outcome": "released",
    "objects": 3,
    "bytes": 300,
    "reason": "",
}


def event(kind: str, body: dict[str, Any]) -> EventRecord:
    return EventRecord(Committed("g", 0, 0, 4096), kind, 3.0, body)


def test_several_in_one_event() -> None:
    refused = {**END, "association_id": "r1", "outcome": "rejected", "word": "calling-ae", "tries": 7, "tls": True}
    body = {"ends": [{**END, "contexts": "d1"}, {**refused, "contexts": "d1"}, END], "proposals": {"d1": "[proposed]"}}
    first, second, third = association_ends(event("associations", body))
    assert (first.association_id, first.objects, first.contexts, first.admitted) == ("a1", 3, "[proposed]", True)
    assert (second.word, second.tries, second.tls, second.admitted) == ("calling-ae", 7, True, False)
    assert (second.contexts, third.contexts) == ("[proposed]", "")


def test_one_of_an_earlier_version() -> None:
    (end,) = association_ends(event("association", END))
    assert (end.association_id, end.objects, end.started_at, end.tries, end.contexts) == ("a1", 3, 1.5, 1, "")


@pytest.mark.parametrize(
    ("kind", "body"), [("audit", {}), ("other", {"ends": [END]}), ("associations", {}), ("associations", {"ends": {}})]
)
def test_others_are_none(kind: str, body: dict[str, Any]) -> None:
    assert association_ends(event(kind, body)) == []
