"""A destination looked at step by step: TCP, TLS, association, C-ECHO, what it accepts, and whether it stores.

What `relaypacs destination test` does; a dicomweb destination is asked for TCP, TLS, an access token and a search. Each
step is a value; the first that fails ends it. Where `verify` is configured, what that asks is asked too. Nothing is
stored there unless that was asked for. Never raises for anything a network or a peer does; ConfigError if credentials
are not there.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from crc32c import crc32c

from relaypacs.config.destination import ORIGINAL
from relaypacs.config.model import Destination
from relaypacs.dicom.contexts import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, VERIFICATION
from relaypacs.dicom.synthetic import PATIENT_ID, SECONDARY_CAPTURE, Synthetic, synthetic
from relaypacs.forward.authorization import Authorization
from relaypacs.forward.cstore import CStoreSender
from relaypacs.forward.echo import echo
from relaypacs.forward.find import find
from relaypacs.forward.http import ConnectFailed as NoConnection
from relaypacs.forward.http import HttpPeer
from relaypacs.forward.lane import sentence
from relaypacs.forward.memory import Pair
from relaypacs.forward.qido import search
from relaypacs.forward.sender import Payload
from relaypacs.forward.stow import StowSender
from relaypacs.forward.tls import client_tls, web_tls
from relaypacs.model import Claim, Delivered, Location, Outcome
from relaypacs.policy.outcome import unreachable
from relaypacs.upper.association import Requested, associate
from relaypacs.upper.errors import AssociationRejected, ConnectFailed, UpperError
from relaypacs.upper.tls import TlsFailed

_IMAGE = "1.2.840.10008.5.1.4.1.1."
CLASSES = tuple(
    _IMAGE + rest
    for rest in ("1", "1.1", "1.2", "2", "2.1", "3.1", "4", "4.1", "6.1", "7", "12.1", "20", "88.22", "104.1")
)
"""CR, DX, MG, CT, Enhanced CT, US multi-frame, MR, Enhanced MR, US, SC, XA, NM, Enhanced SR, Encapsulated PDF."""
SYNTAXES = (
    IMPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    *(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 70, 80, 90, 91)),
    "1.2.840.10008.1.2.5",
)
"""Implicit and Explicit VR Little Endian; JPEG Baseline, Extended, Lossless; JPEG-LS; JPEG 2000 twice; RLE."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was tried. `ok` is None for what is no fault and yet worth knowing."""

    name: str
    ok: bool | None
    sentence: str


@dataclass(slots=True)
class Examined:
    """What came of it. `accepted`: of `CLASSES` and `SYNTAXES`; None where the protocol does not tell."""

    steps: list[Step] = field(default_factory=list)
    accepted: frozenset[Pair] | None = None
    window: int = 1
    max_pdu_bytes: int | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return all(step.ok is not False for step in self.steps)

    def add(self, name: str, ok: bool | None, sentence: str) -> None:
        """Note a step."""
        self.steps.append(Step(name, ok, sentence))


def examine(
    destination: Destination, *, calling_ae: str, store: bool, environment: Mapping[str, str] = os.environ
) -> Examined:
    """Look at it; `store`: also send one synthetic object, by the destination's own protocol."""
    found = Examined()
    authorization = Authorization(destination, environment) if destination.kind == "dicomweb" else None
    if authorization is not None:
        _examine_web(destination, calling_ae, authorization, found)
    else:
        _examine_dimse(destination, calling_ae, found)
    made = synthetic(uuid.uuid4().int)
    if store and found.ok and (authorization is not None or found.accepted):
        _store(destination, calling_ae, authorization, made, found)
    if destination.verify != "none" and found.ok:
        _look_for(destination, calling_ae, authorization, made, found, stored=store)
    return found


def _examine_web(destination: Destination, calling_ae: str, authorization: Authorization, found: Examined) -> None:
    peer = HttpPeer(
        destination.url,
        authorization.shown,
        connect_timeout_seconds=destination.connect_timeout_seconds,
        response_timeout_seconds=destination.response_timeout_seconds,
        tls=web_tls(destination),
    )
    host, port = peer.address
    try:
        socket.create_connection(peer.address, timeout=destination.connect_timeout_seconds).close()
    except OSError as problem:
        found.add("tcp", False, unreachable(problem))
        return
    found.add("tcp", True, f"{host}:{port} takes connections")
    if destination.url.startswith("https:"):
        try:
            peer.connect()
        except NoConnection as problem:
            found.add("tls", False, str(problem))
            return
        found.add("tls", True, "the handshake is done and its certificate is good")
        peer.close()
    if destination.token_url:
        try:
            authorization.shown()
        except NoConnection as problem:
            found.add("token", False, str(problem))
            return
        found.add("token", True, "`token_url` gives an access token")
    answer = echo(destination, calling_ae=calling_ae, authorization=authorization)
    if answer.status in (404, 405, 410):
        said = f"it has no search there ({answer.status}): correct `url`, unless it can only store (--store tells)"
        found.add("http", None, said)
    else:
        found.add("http", answer.ok or (None if answer.answers else False), answer.sentence)


def _examine_dimse(destination: Destination, calling_ae: str, found: Examined) -> None:
    own = "" if destination.calling_ae == ORIGINAL else destination.calling_ae
    pairs = [(sop_class, syntax) for sop_class in CLASSES for syntax in SYNTAXES]
    try:
        association = associate(
            destination.host,
            destination.port,
            calling_ae=own or calling_ae,
            called_ae=destination.called_ae,
            contexts=[(VERIFICATION, (IMPLICIT_VR_LITTLE_ENDIAN,)), *((one, (syntax,)) for one, syntax in pairs)],
            connect_timeout_seconds=destination.connect_timeout_seconds,
            response_timeout_seconds=destination.response_timeout_seconds,
            tls=client_tls(destination),
            max_operations=destination.max_operations,
        )
    except UpperError as problem:
        _not_associated(destination, problem, found)
        return
    found.add("tcp", True, f"{destination.host}:{destination.port} takes connections")
    if destination.tls:
        found.add("tls", True, "the handshake is done and its certificate is good")
    found.accepted = frozenset(association.accepted) & frozenset(pairs)
    found.window, found.max_pdu_bytes = association.operations, association.peer_max_pdu_bytes
    found.add("association", True, f"it is accepted, with {len(association.accepted)} of {len(pairs) + 1} contexts")
    _echo(destination, association, found)
    if not found.accepted:
        found.add("storage", False, "it accepts none of the usual storage classes: enable Storage SCP there")


def _not_associated(destination: Destination, problem: UpperError, found: Examined) -> None:
    """The steps up to the one that failed."""
    said = sentence(problem, response_timeout_seconds=destination.response_timeout_seconds)
    cause = problem.__cause__ if isinstance(problem, ConnectFailed) else None
    tls_failed = isinstance(cause, TlsFailed)
    if isinstance(cause, OSError) and not tls_failed and "closed the connection at once" not in str(problem):
        found.add("tcp", False, said)
        return
    found.add("tcp", True, f"{destination.host}:{destination.port} takes connections")
    if destination.tls:
        found.add("tls", not tls_failed, said if tls_failed else "the handshake is done and its certificate is good")
    if _is_stranger(problem) and destination.calling_ae == ORIGINAL:
        knows = 'it knows those who send and not us, so with calling_ae = "original" no more can be tried from here'
        found.add("association", None, knows)
    elif not tls_failed:
        found.add("association", False, said)


def _is_stranger(problem: UpperError) -> bool:
    """Whether our calling AE title is not recognized (PS3.8 table 9-21)."""
    return isinstance(problem, AssociationRejected) and (problem.source, problem.reason) == (1, 3)


def _echo(destination: Destination, association: Requested, found: Examined) -> None:
    if not any(abstract_syntax == VERIFICATION for abstract_syntax, _ in association.accepted):
        found.add("c-echo", None, "it has no Verification: nothing is lost by that")
        association.release()
        return
    try:
        status = association.echo()
        association.release()
    except UpperError as problem:
        said = sentence(problem, response_timeout_seconds=destination.response_timeout_seconds)
        found.add("c-echo", False, said)
    else:
        found.add("c-echo", status == 0, f"it answers {status:04X}" + ("" if status == 0 else ": see its log"))


def _look_for(
    destination: Destination,
    calling_ae: str,
    authorization: Authorization | None,
    made: Synthetic,
    found: Examined,
    *,
    stored: bool,
) -> None:
    """Ask as `verify` does, for the synthetic object: whether it is there, if it was stored."""
    wanted = {made.series_instance_uid: [made.sop_instance_uid]}
    if authorization is None:
        listed = find(destination, calling_ae, made.study_instance_uid, wanted)
    else:
        listed = search(destination, authorization, made.study_instance_uid, wanted)
    if listed.trouble:
        found.add(destination.verify, False, listed.trouble)
    elif not stored:
        found.add(destination.verify, True, "it can be asked what it has")
    elif made.sop_instance_uid in listed.uids:
        found.add(destination.verify, True, "it lists the synthetic object")
    else:
        after = f"`verify_after_seconds` = {destination.verify_after_seconds:g}"
        found.add(destination.verify, None, f"it does not list the synthetic object yet: {after} must be enough for it")


def _store(
    destination: Destination,
    calling_ae: str,
    authorization: Authorization | None,
    made: Synthetic,
    found: Examined,
) -> None:
    """Send a synthetic object, and say how to be rid of it."""
    sender: CStoreSender | StowSender
    if authorization is not None:
        sender = StowSender(destination, authorization.shown, authorization.renew)
    else:
        sender = CStoreSender(destination, calling_ae)
    outcomes: list[Outcome] = []

    @contextmanager
    def read(_: Claim) -> Iterator[Payload]:
        dataset = memoryview(made.file)[made.dataset_offset :]
        yield Payload(memoryview(made.file), dataset, crc32c(dataset))

    try:
        trouble = sender.deliver(
            [_claim(destination, made)],
            read,
            lambda _claim, outcome, *_times: outcomes.append(outcome),
            lambda _claims, _rest: True,
        )
    finally:
        sender.close()
    outcome = outcomes[0] if outcomes else None
    if isinstance(outcome, Delivered):
        warning = f", with the warning {outcome.status:04X}" if outcome.warning else ""
        found.add("store", True, f"it stored a synthetic object{warning}")
        found.add(
            "remove",
            None,
            f"delete the study {made.study_instance_uid} there: patient ID {PATIENT_ID}, one Secondary Capture image",
        )
    elif outcome is not None:
        found.add("store", False, outcome.reason)
    elif trouble is not None:
        found.add("store", False, trouble.reason)


def _claim(destination: Destination, made: Synthetic) -> Claim:
    length = len(made.file)
    return Claim(
        delivery_id=0,
        instance_id=0,
        token=0,
        destination=destination.name,
        attempts=0,
        first_queued_at=time.time(),
        priority=0,
        sop_class_uid=SECONDARY_CAPTURE,
        sop_instance_uid=made.sop_instance_uid,
        study_instance_uid=made.study_instance_uid,
        transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
        association_id="",
        location=Location("", None, 0, length, made.dataset_offset, length - made.dataset_offset, 0, None),
    )
