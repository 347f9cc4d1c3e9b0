"""Which audit message (PS3.15 A.5.3) a row of the trail comes to, in a table by kind. Pure.

A kind without a message of its own is a Security Alert: the use of a restricted function. docs/audit.md lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from relaypacs.dicom import audit_message as dicom
from relaypacs.dicom.audit_message import Code, Concerned, Message, Participant
from relaypacs.jobs.audit_rows import Entry

_UNKNOWN_USER = "unknown"


@dataclass(frozen=True, slots=True)
class Place:
    """Who reports: the node, the machine's name, the site, the node's first AE title."""

    node: str
    host: str
    site: str = ""
    ae_title: str = ""


def message_of(entry: Entry, place: Place) -> Message:
    """The message of a row."""
    event, types, action, make = _KINDS.get(entry.kind, _ALERT_OF_USE)
    participants, concerned, description = make(entry, place)
    return Message(
        event=event,
        at=entry.at,
        source=entry.node or place.node,
        participants=participants,
        action=action,
        outcome=entry.outcome,
        types=types,
        description=description,
        concerned=concerned,
        site=place.site,
    )


_Made = tuple[tuple[Participant, ...], tuple[Concerned, ...], str]


def _us(place: Place, *, role: Code | None = None, requestor: bool = False, ae_title: str = "") -> Participant:
    return Participant(
        place.node,
        requestor,
        alternative_id=_ae(ae_title or place.ae_title),
        role=role,
        address=place.host,
        address_kind=dicom.MACHINE_NAME,
    )


def _at(name: str, host: str) -> str:
    return f"{name}@{host}" if host else name


def _ae(title: str) -> str:
    return f"AETITLES={title}" if title else ""  # A.5.2.2


def _peer(title: str, peer: str, *, role: Code | None = None, requestor: bool = False) -> Participant:
    host = peer.rpartition(":")[0].strip("[]")
    numeric = bool(host) and all(one in "0123456789abcdefABCDEF.:%" for one in host) and (":" in host or "." in host)
    kind = dicom.IP_ADDRESS if numeric else dicom.MACHINE_NAME
    return Participant(title or host or _UNKNOWN_USER, requestor, _ae(title), role, host, kind)


def _person(entry: Entry, place: Place, role: Code | None = None) -> Participant:
    return Participant(
        entry.actor or _UNKNOWN_USER, True, role=role, address=place.host, address_kind=dicom.MACHINE_NAME
    )


def _text(entry: Entry, name: str) -> str:
    return str(entry.body.get(name, ""))


def _study(entry: Entry) -> tuple[Concerned, ...]:
    classes, count = entry.body.get("classes"), entry.body.get("instances")
    told: dict[str, int] = {}
    if isinstance(classes, Mapping) and classes:
        told = {str(uid): number for uid, number in classes.items() if isinstance(number, int)}
    elif isinstance(count, int) and count:
        told = {"": count}
    return (
        dicom.study(entry.study, told),
        dicom.patient(_text(entry, "patient_id")),
    )


def _activity(entry: Entry, place: Place) -> _Made:
    return (_us(place, role=dicom.APPLICATION),), (), ""


def _received(entry: Entry, place: Place) -> _Made:
    source = _peer(entry.actor, _text(entry, "peer"), role=dicom.SOURCE, requestor=True)
    here = _us(place, role=dicom.DESTINATION, ae_title=_text(entry, "called_ae"))
    return (source, here), _study(entry), ""


def _delivered(entry: Entry, place: Place) -> _Made:
    there = _peer(_text(entry, "called_ae"), _text(entry, "peer"), role=dicom.DESTINATION)
    named = Participant(
        _text(entry, "destination"), False, there.alternative_id, dicom.DESTINATION, there.address, there.address_kind
    )
    status = _text(entry, "status")
    said = f"given up, status {status}" if status else "given up" if entry.outcome else ""
    return (_us(place, role=dicom.SOURCE, requestor=True), named), _study(entry), said


def _refused(entry: Entry, place: Place) -> _Made:
    peer = _peer(entry.actor, _text(entry, "peer"))
    said = dicom.in_words((name, entry.body.get(name)) for name in ("word", "reason", "called_ae", "tries"))
    # A node is told by its address, or NAME@DOMAIN (A.5.3.11).
    subject = peer.address if peer.address_kind == dicom.IP_ADDRESS else _at(peer.user_id, peer.address)
    return (_us(place), peer), (dicom.alert(subject, said),), _text(entry, "reason")


def _log_used(entry: Entry, place: Place) -> _Made:
    log = Concerned(f"relaypacs://{place.host}/{place.node}/audit", dicom.URI, "2", "13", name="Security Audit Log")
    return (_person(entry, place),), (log,), ""


def _exported(entry: Entry, place: Place) -> _Made:
    media = Participant(
        _text(entry, "target") or _UNKNOWN_USER, role=dicom.DESTINATION_MEDIA, medium=dicom.NOT_A_MEDIUM
    )
    return (_person(entry, place), media), _study(entry), ""


def _alert(entry: Entry, place: Place) -> _Made:
    said = f"{entry.kind}: {dicom.in_words(entry.body.items())}"
    study = (dicom.study(entry.study, {}),) if entry.study else ()
    return (_us(place), _person(entry, place)), (dicom.alert(_at(place.node, place.host), said), *study), ""


_Make = Callable[[Entry, Place], _Made]
_ALERT_OF_USE: tuple[Code, tuple[Code, ...], str, _Make] = (
    dicom.SECURITY_ALERT,
    (dicom.RESTRICTED_FUNCTION,),
    "E",
    _alert,
)
_KINDS: Mapping[str, tuple[Code, tuple[Code, ...], str, _Make]] = {
    "start": (dicom.APPLICATION_ACTIVITY, (dicom.APPLICATION_START,), "E", _activity),
    "stop": (dicom.APPLICATION_ACTIVITY, (dicom.APPLICATION_STOP,), "E", _activity),
    "received": (dicom.INSTANCES_TRANSFERRED, (), "C", _received),
    # Whether the receiver had them before it does not say (A.5.3.7).
    "delivered": (dicom.INSTANCES_TRANSFERRED, (), "R", _delivered),
    "failed": (dicom.INSTANCES_TRANSFERRED, (), "R", _delivered),
    "refused": (dicom.SECURITY_ALERT, (dicom.NODE_AUTHENTICATION,), "E", _refused),
    "audit": (dicom.AUDIT_LOG_USED, (), "R", _log_used),
    "export": (dicom.EXPORT, (), "R", _exported),
    "config": (dicom.SECURITY_ALERT, (dicom.SOFTWARE_CONFIGURATION,), "E", _alert),
    "config-taken": (dicom.SECURITY_ALERT, (dicom.SOFTWARE_CONFIGURATION,), "E", _alert),
    "retention": (dicom.SECURITY_ALERT, (dicom.SECURITY_CONFIGURATION,), "E", _alert),
}
