"""An audit message as XML: what PS3.15 A.5.1's schema wants, in its order, and whatever a peer wrote made harmless."""

from __future__ import annotations

import base64
from xml.etree import ElementTree as Xml

import pytest

from relaypacs.dicom import audit_message as dicom
from relaypacs.dicom.audit_message import Concerned, Message, Participant, encode, fit, moment

AT = 1_700_000_000.1234


def parsed(message: Message) -> Xml.Element:
    return Xml.fromstring(encode(message))


def message(**parts: object) -> Message:
    usual: dict[str, object] = {
        "event": dicom.INSTANCES_TRANSFERRED,
        "at": AT,
        "source": "relay-1",
        "participants": (Participant("CT1", True, "AETITLES=CT1", dicom.SOURCE, "10.1.0.5"),),
    }
    return Message(**{**usual, **parts})  # type: ignore[arg-type]


def test_the_parts_in_the_order_of_the_schema() -> None:
    root = parsed(
        message(
            action="C",
            types=(dicom.APPLICATION_START,),
            description="why",
            concerned=(dicom.study("1.2.3", {"1.2.840.10008.5.1.4.1.1.2": 7}), dicom.patient("P-1")),
            site="North",
        )
    )
    assert [child.tag for child in root] == [
        "EventIdentification",
        "ActiveParticipant",
        "AuditSourceIdentification",
        "ParticipantObjectIdentification",
        "ParticipantObjectIdentification",
    ]
    event = root[0]
    assert event.attrib == {
        "EventActionCode": "C",
        "EventDateTime": "2023-11-14T22:13:20.123Z",
        "EventOutcomeIndicator": "0",
    }
    assert [child.tag for child in event] == ["EventID", "EventTypeCode", "EventOutcomeDescription"]
    assert event[0].attrib == {
        "csd-code": "110104",
        "codeSystemName": "DCM",
        "originalText": "DICOM Instances Transferred",
    }
    assert root[1].attrib == {
        "UserID": "CT1",
        "AlternativeUserID": "AETITLES=CT1",
        "UserIsRequestor": "true",
        "NetworkAccessPointID": "10.1.0.5",
        "NetworkAccessPointTypeCode": "2",
    }
    assert root[1][0].attrib["csd-code"] == "110153"
    assert root[2].attrib == {"AuditEnterpriseSiteID": "North", "AuditSourceID": "relay-1"}
    study, patient = root[3], root[4]
    assert (study.attrib["ParticipantObjectID"], study.attrib["ParticipantObjectTypeCode"]) == ("1.2.3", "2")
    assert study[0].attrib["csd-code"] == "110180"
    classes = study.find("ParticipantObjectDescription/SOPClass")
    assert classes is not None
    assert classes.attrib == {"UID": "1.2.840.10008.5.1.4.1.1.2", "NumberOfInstances": "7"}
    assert (patient.attrib["ParticipantObjectID"], patient.attrib["ParticipantObjectTypeCode"]) == ("P-1", "1")
    assert patient[0].attrib["csd-code"] == "2"
    name = patient.find("ParticipantObjectName")
    assert name is not None
    assert not name.text, "a patient's name is never told"


def test_what_is_not_known_is_absent_and_what_must_be_there_is_empty() -> None:
    root = parsed(message(participants=(Participant(""),), site=""))
    assert root[1].attrib == {"UserID": "", "UserIsRequestor": "false"}
    assert root[2].attrib == {"AuditSourceID": "relay-1"}


@pytest.mark.parametrize("hostile", ["<&\"'>]]>", "a\x00b\x1f", "\ud800", "\ufffe", "\U0001f480", "é\u202e"])
def test_whatever_a_peer_wrote_is_read_back(hostile: str) -> None:
    concerned = (Concerned(hostile, dicom.URI, "2", "13", name=hostile, details={"Alert Description": hostile}),)
    root = parsed(message(participants=(Participant(hostile),), description=hostile, concerned=concerned))
    assert root[1].attrib["UserID"] == fit(hostile)
    assert root[0].findtext("EventOutcomeDescription") == fit(hostile)
    assert root[3].findtext("ParticipantObjectName") == fit(hostile)
    detail = root[3].find("ParticipantObjectDetail")
    assert detail is not None
    assert base64.b64decode(detail.attrib["value"]) == hostile.encode("utf-8", "replace")


def test_times_are_utc_with_milliseconds() -> None:
    assert moment(0) == "1970-01-01T00:00:00.000Z"
    assert moment(1.9996) == "1970-01-01T00:00:01.999Z"
