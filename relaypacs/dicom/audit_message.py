"""The XML of an audit message (PS3.15 A.5.1), made of frozen values. Pure.

`trail` says what a row of the audit trail comes to; here is how it is written down. Order, names and codes are those of
the standard's RELAX NG schema; whatever a peer wrote is made fit for XML 1.0 first, and what may be anything goes as
base64 (`Detail`).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from xml.etree import ElementTree as Xml


@dataclass(frozen=True, slots=True)
class Code:
    """A coded value (CodedValueType)."""

    value: str
    meaning: str
    system: str = "DCM"


# PS3.16 CID 400, Audit Event ID
APPLICATION_ACTIVITY: Final = Code("110100", "Application Activity")
AUDIT_LOG_USED: Final = Code("110101", "Audit Log Used")
INSTANCES_TRANSFERRED: Final = Code("110104", "DICOM Instances Transferred")
EXPORT: Final = Code("110106", "Export")
SECURITY_ALERT: Final = Code("110113", "Security Alert")
# CID 401, Audit Event Type Code
APPLICATION_START: Final = Code("110120", "Application Start")
APPLICATION_STOP: Final = Code("110121", "Application Stop")
NODE_AUTHENTICATION: Final = Code("110126", "Node Authentication")
SECURITY_CONFIGURATION: Final = Code("110129", "Security Configuration")
SOFTWARE_CONFIGURATION: Final = Code("110131", "Software Configuration")
RESTRICTED_FUNCTION: Final = Code("110132", "Use of Restricted Function")
# CID 402, Audit Active Participant Role ID Code
APPLICATION: Final = Code("110150", "Application")
LAUNCHER: Final = Code("110151", "Application Launcher")
DESTINATION: Final = Code("110152", "Destination Role ID")
SOURCE: Final = Code("110153", "Source Role ID")
DESTINATION_MEDIA: Final = Code("110154", "Destination Media")
# CID 404, Audit Participant Object ID Type Code, and A.5.1.2.4
STUDY_INSTANCE_UID: Final = Code("110180", "Study Instance UID")
NODE_ID: Final = Code("110182", "Node ID")
PATIENT_NUMBER: Final = Code("2", "Patient Number", "RFC-3881")
URI: Final = Code("12", "URI", "RFC-3881")
# CID 405, Media Type Code
NOT_A_MEDIUM: Final = Code("110038", "Other Media Type", "DCM")

MACHINE_NAME, IP_ADDRESS = "1", "2"
"""NetworkAccessPointTypeCode."""
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Participant:
    """Somebody or something that took part (ActiveParticipant)."""

    user_id: str
    requestor: bool = False
    alternative_id: str = ""
    role: Code | None = None
    address: str = ""
    address_kind: str = IP_ADDRESS
    medium: Code | None = None


@dataclass(frozen=True, slots=True)
class Concerned:
    """What it was done to (ParticipantObjectIdentification)."""

    id: str
    id_type: Code
    type_code: str
    """ParticipantObjectTypeCode: 1 person, 2 system object."""
    role: str
    """ParticipantObjectTypeCodeRole: 1 patient, 3 report, 13 security resource."""
    name: str = ""
    life_cycle: str = ""
    details: Mapping[str, str] = field(default_factory=dict)
    classes: Mapping[str, int] = field(default_factory=dict)
    """Instances by SOP Class UID; "" where that is not known."""


@dataclass(frozen=True, slots=True)
class Message:
    """One audit message. `at`: seconds since the epoch; `outcome`: 0, 4, 8 or 12."""

    event: Code
    at: float
    source: str
    """AuditSourceID: the node."""
    participants: tuple[Participant, ...]
    action: str = "E"
    outcome: int = 0
    types: tuple[Code, ...] = ()
    description: str = ""
    concerned: tuple[Concerned, ...] = ()
    site: str = ""


def encode(message: Message) -> bytes:
    """The XML document, UTF-8, without a byte order mark."""
    root = Xml.Element("AuditMessage")
    event = _add(
        root,
        "EventIdentification",
        EventActionCode=message.action,
        EventDateTime=moment(message.at),
        EventOutcomeIndicator=str(message.outcome),
    )
    _add_code(event, "EventID", message.event)
    for one in message.types:
        _add_code(event, "EventTypeCode", one)
    if message.description:
        _add(event, "EventOutcomeDescription").text = fit(message.description)
    for participant in message.participants:
        _add_participant(root, participant)
    source = _add(root, "AuditSourceIdentification", AuditEnterpriseSiteID=message.site, AuditSourceID=message.source)
    _add(source, "AuditSourceTypeCode", **{"csd-code": "4"})  # application server process
    for what in message.concerned:
        _add_object(root, what)
    body: bytes = Xml.tostring(root, encoding="UTF-8", xml_declaration=False)
    return b'<?xml version="1.0" encoding="UTF-8"?>' + body


def moment(at: float) -> str:
    """xsd:dateTime, UTC, with milliseconds."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def fit(text: str) -> str:
    """`text` with what XML 1.0 (2.2) has no place for replaced."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)


_ALWAYS = frozenset({"UserID", "AuditSourceID", "ParticipantObjectID", "value"})


def _add(parent: Xml.Element, name: str, **attributes: str) -> Xml.Element:
    """A child; attributes that are empty and may be absent are."""
    kept = {key: fit(value) for key, value in attributes.items() if value or key in _ALWAYS}
    return Xml.SubElement(parent, name, kept)


def _add_code(parent: Xml.Element, name: str, code: Code) -> None:
    _add(parent, name, **{"csd-code": code.value, "codeSystemName": code.system, "originalText": code.meaning})


def _add_participant(root: Xml.Element, one: Participant) -> None:
    element = _add(
        root,
        "ActiveParticipant",
        UserID=one.user_id,
        AlternativeUserID=one.alternative_id,
        UserIsRequestor="true" if one.requestor else "false",
        NetworkAccessPointID=one.address,
        NetworkAccessPointTypeCode=one.address_kind if one.address else "",
    )
    if one.role is not None:
        _add_code(element, "RoleIDCode", one.role)
    if one.medium is not None:
        _add_code(_add(element, "MediaIdentifier"), "MediaType", one.medium)


def _add_object(root: Xml.Element, what: Concerned) -> None:
    element = _add(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=what.id,
        ParticipantObjectTypeCode=what.type_code,
        ParticipantObjectTypeCodeRole=what.role,
        ParticipantObjectDataLifeCycle=what.life_cycle,
    )
    _add_code(element, "ParticipantObjectIDTypeCode", what.id_type)
    # The schema wants a name or a query; a patient's name is never told, so it is empty.
    _add(element, "ParticipantObjectName").text = fit(what.name)
    for kind, value in what.details.items():
        _add(element, "ParticipantObjectDetail", type=kind, value=_base64(value))
    if what.classes:
        description = _add(element, "ParticipantObjectDescription")
        for uid, count in what.classes.items():
            _add(description, "SOPClass", UID=uid, NumberOfInstances=str(count))


def _base64(value: str) -> str:
    return base64.b64encode(value.encode("utf-8", "replace")).decode("ascii")


def study(uid: str, classes: Mapping[str, int]) -> Concerned:
    """A study whose instances were transferred (A.5.3.7)."""
    return Concerned(uid, STUDY_INSTANCE_UID, "2", "3", classes=classes)


def patient(patient_id: str) -> Concerned:
    """The patient, by number alone."""
    return Concerned(patient_id, PATIENT_NUMBER, "1", "1")


def alert(subject: str, text: str) -> Concerned:
    """What a Security Alert is about (A.5.3.11)."""
    return Concerned(subject, NODE_ID, "2", "13", details={"Alert Description": text})


def in_words(parts: Iterable[tuple[str, object]]) -> str:
    """`name: value` of each part that says something."""
    return "; ".join(f"{name}: {value}" for name, value in parts if value not in (None, "", [], {}))
