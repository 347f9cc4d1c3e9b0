"""Which audit message each kind of row comes to, and that docs/audit.md says so."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest

from relaypacs.dicom.audit_message import encode
from relaypacs.jobs.audit_rows import KINDS, SERIOUS, SUCCESS, Entry
from relaypacs.jobs.states import Verb
from relaypacs.trail.messages import Place, message_of

PAGE = (Path(__file__).parents[3] / "docs" / "audit.md").read_text(encoding="utf-8")
PLACE = Place("relay-1", "host-1", "North", "RELAYPACS")
RECEIVED = {
    "association": "a1",
    "called_ae": "RELAY2",
    "peer": "10.1.0.5:4242",
    "instances": 3,
    "classes": {"1.2.840.10008.5.1.4.1.1.2": 3},
    "patient_id": "P-1",
}
DELIVERED = {"destination": "archive", "called_ae": "ARCHIVE", "peer": "[fd00::1]:104", "instances": 3}
REFUSED = {"called_ae": "RELAYPACS", "peer": "10.9.9.9:5", "word": "calling-ae", "reason": "no [[caller]]", "tries": 8}


def of(kind: str, *, outcome: int = SUCCESS, **body: object) -> Xml.Element:
    actor = {"received": "CT1", "refused": "EVIL"}.get(kind, "ops")
    study = "" if kind in ("start", "stop", "refused", "audit", "config", "config-taken", "retention") else "1.2.3"
    return Xml.fromstring(encode(message_of(Entry(5.0, kind, "relay-1", actor, study, outcome, body), PLACE)))


def codes(root: Xml.Element) -> tuple[str, ...]:
    """Event ID and types."""
    found = [*root.iterfind("EventIdentification/EventID"), *root.iterfind("EventIdentification/EventTypeCode")]
    return tuple(one.attrib["csd-code"] for one in found)


def people(root: Xml.Element) -> list[tuple[str, str, str, str]]:
    """User, alternative, address and role of each."""
    return [
        (
            one.attrib["UserID"],
            one.attrib.get("AlternativeUserID", ""),
            one.attrib.get("NetworkAccessPointID", ""),
            one[0].attrib["csd-code"] if len(one) else "",
        )
        for one in root.iterfind("ActiveParticipant")
    ]


def concerned(root: Xml.Element) -> list[str]:
    return [one.attrib["ParticipantObjectID"] for one in root.iterfind("ParticipantObjectIdentification")]


def told(root: Xml.Element) -> str:
    """Alert Description."""
    detail = root.find("ParticipantObjectIdentification/ParticipantObjectDetail")
    assert detail is not None
    return base64.b64decode(detail.attrib["value"]).decode()


def test_start_and_stop() -> None:
    assert codes(of("start")) == ("110100", "110120")
    assert codes(of("stop")) == ("110100", "110121")
    assert people(of("stop")) == [("relay-1", "AETITLES=RELAYPACS", "host-1", "110150")]


def test_received() -> None:
    root = of("received", **RECEIVED)
    assert codes(root) == ("110104",)
    assert people(root) == [
        ("CT1", "AETITLES=CT1", "10.1.0.5", "110153"),
        ("relay-1", "AETITLES=RELAY2", "host-1", "110152"),
    ]
    assert concerned(root) == ["1.2.3", "P-1"]
    classes = root.find("ParticipantObjectIdentification/ParticipantObjectDescription/SOPClass")
    assert classes is not None
    assert classes.attrib["NumberOfInstances"] == "3"


def test_delivered_and_given_up() -> None:
    root = of("delivered", **DELIVERED)
    assert codes(root) == ("110104",)
    assert people(root) == [
        ("relay-1", "AETITLES=RELAYPACS", "host-1", "110153"),
        ("archive", "AETITLES=ARCHIVE", "fd00::1", "110152"),
    ]
    failed = of("failed", outcome=SERIOUS, **DELIVERED, status="A900")
    event = failed.find("EventIdentification")
    assert event is not None
    assert event.attrib["EventOutcomeIndicator"] == "8"
    assert event.findtext("EventOutcomeDescription") == "given up, status A900"


def test_refused() -> None:
    root = of("refused", outcome=SERIOUS, **REFUSED)
    assert codes(root) == ("110113", "110126")
    assert people(root)[1] == ("EVIL", "AETITLES=EVIL", "10.9.9.9", "")
    assert concerned(root) == ["10.9.9.9"]
    assert concerned(of("refused", **{**REFUSED, "peer": "ct.example:5"})) == ["EVIL@ct.example"]
    assert told(root) == "word: calling-ae; reason: no [[caller]]; called_ae: RELAYPACS; tries: 8"


def test_what_people_do() -> None:
    assert codes(of("audit", rows=3)) == ("110101",)
    assert people(of("audit", rows=3)) == [("ops", "", "host-1", "")]
    exported = of("export", instances=3, target="tar")
    assert codes(exported) == ("110106",)
    assert [one[3] for one in people(exported)] == ["", "110154"]
    assert concerned(exported) == ["1.2.3", ""]
    for verb in Verb:
        alert = of(verb.value, to="archive", changed=2)
        assert codes(alert) == ("110113", "110132")
        assert told(alert) == f"{verb.value}: to: archive; changed: 2"
    assert codes(of("config-taken", changed=["rule"])) == ("110113", "110131")
    assert concerned(of("config-taken", changed=["rule"])) == ["relay-1@host-1"]
    edited = of("config", command="caller add", subject="CT_1")
    assert codes(edited) == ("110113", "110131")
    assert people(edited)[1][0] == "ops"
    assert told(edited) == "config: command: caller add; subject: CT_1"
    assert codes(of("give-up", node_lost="relay-2", deliveries=3)) == ("110113", "110132")
    assert codes(of("retention", days=400)) == ("110113", "110129")


def test_nobody_known_is_said_to_be_so() -> None:
    message = message_of(Entry(5.0, "hold", "", "", "", SUCCESS, {}), PLACE)
    assert [one.user_id for one in message.participants] == ["relay-1", "unknown"]
    assert message.source == "relay-1"


@pytest.mark.parametrize("broken", [{"instances": "many"}, {"classes": ["x"]}, {"classes": {"1.2": "x"}}, {"peer": 7}])
def test_a_body_that_is_not_as_expected_is_a_message_still(broken: dict[str, object]) -> None:
    for kind in ("received", "delivered", "refused", "export"):
        assert of(kind, **{**RECEIVED, **broken}).tag == "AuditMessage"


def test_the_page_names_every_kind_with_its_event() -> None:
    listed = dict(re.findall(r"^\| `([a-z-]+)` \| [^|]+ \| ([0-9]{6}) [^|]* \|$", PAGE, re.MULTILINE))
    assert set(listed) == KINDS
    assert {verb.value for verb in Verb} <= KINDS
    for kind, code in listed.items():
        assert codes(of(kind))[0] == code, kind
