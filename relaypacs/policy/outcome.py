"""What a destination's answer means for one delivery: Delivered, Deferred (SITE or INSTANCE) or Failed.

`forward/` asks here and nowhere else. Statuses and failure reasons are tables in `dicom.status`; HTTP and
associations follow PS3.18 10.5.3, PS3.8 9.3.4 and what peers really answer. Every reason is one sentence that says
where the mend is, built from codes, dictionary names and our own configuration only: nothing that a peer or a patient
wrote.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Sequence
from functools import lru_cache

from relaypacs.dicom.status import REFUSALS, STORE, STOW, UNKNOWN, Meaning, Row, look_up
from relaypacs.model import Deferred, Delivered, Failed, Outcome, Scope

CORRUPT = Failed(
    "the bytes kept here are not those that were received, so they are not sent: check disk and staging, send again"
)
STORED_UNDER_ANOTHER_UID = Failed(
    "destination stored it under another SOP Instance UID than was announced: the dataset has its own, mend the source"
)
OUT_OF_RESOURCES_IN_A_ROW = 3
"""So many A7xx one after another are the destination's trouble; a single one may be the instance's (Orthanc answers
A700 for a missing Study Instance UID, dcm4chee A777 for a missing Patient ID)."""


def out_of_resources(status: int | None) -> bool:
    """Whether a status is Refused: Out of Resources (PS3.4 B.2.3) or Resource limitation (PS3.7 C.5.20)."""
    row = None if status is None else look_up(REFUSALS, status)
    return row is not None and row.meaning is Meaning.FULL


def refused_kind(code: int) -> bool:
    """Whether a C-STORE status or Failure Reason refuses the SOP class or transfer syntax, whatever the instance."""
    row = look_up(REFUSALS, code)
    return row is not None and row.meaning is Meaning.KIND


@lru_cache(64)
def store_outcome(status: int) -> Outcome:
    """The outcome of a C-STORE-RSP `status` (0..0xFFFF), by `dicom.status.STORE`.

    Out of resources and whatever is unknown is tried again until the retry schedule ends in the dead letter; 0111
    (duplicate) is delivered, since deliveries are at least once.
    """
    return _outcome(STORE, status)


def stow_outcome(failure_reason: int | None) -> Outcome:
    """The outcome of an instance listed in the Failed SOP Sequence with Failure Reason (0008,1197), by
    `dicom.status.STOW`.

    Listed as failed is never delivered, except where the reason is that the destination already has the instance.
    """
    if failure_reason is None:
        return Deferred("the destination lists the instance as failed and gives no reason: see its log", Scope.INSTANCE)
    return _outcome(STOW, failure_reason)


def _outcome(table: Sequence[Row], code: int) -> Outcome:
    row = look_up(table, code)
    if row is not None and row.meaning in (Meaning.STORED, Meaning.WARNING, Meaning.THERE):
        return Delivered(code, warning=row.meaning is Meaning.WARNING)
    sentence = "the destination " + (UNKNOWN if row is None else row.sentence).format(code=f"{code:04X}")
    if row is not None and row.meaning in (Meaning.NEVER, Meaning.KIND):
        return Failed(sentence, code)
    return Deferred(sentence, Scope.INSTANCE, code)


def no_context(sop_class: str, transfer_syntax: str) -> Failed:
    """The destination accepted no presentation context for the instance (PS3.8 9.3.3.2); arguments are names."""
    return Failed(
        f"destination accepts no presentation context for {sop_class} in {transfer_syntax}: "
        "enable it there or route this elsewhere"
    )


_REJECTIONS = {
    (1, 1): "does not say why: see its log",
    (1, 2): "does not support the DICOM application context: is this a DICOM port?",
    (1, 3): "does not know our calling AE title: register it there or set `calling_ae`",
    (1, 7): "does not answer to that called AE title: correct `called_ae`",
    (2, 2): "does not support DICOM protocol version 1: is this a DICOM port?",
    (3, 1): "is congested: it asks to be tried again later",
    (3, 2): "is at its limit of associations: allow more there or lower `associations` here",
}


def rejected(result: int, source: int, reason: int) -> str:
    """A sentence for an A-ASSOCIATE-RJ (PS3.8 9.3.4). Permanent or transient, it says nothing of any instance."""
    how = "for good" if result == 1 else "for now"
    why = _REJECTIONS.get((source, reason), "gives no known reason: see its log")
    return f"destination rejected the association {how} ({result}/{source}/{reason}): it {why}"


def unreachable(error: Exception) -> str:
    """A sentence for a connection that could not be made, from the operating system's or TLS's error."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = "its TLS certificate can't be verified: trust its issuer (SSL_CERT_FILE) or correct the host name"
    elif isinstance(error, ssl.SSLError):
        why = "the TLS handshake failed: is this a TLS port, with a version and cipher both sides have?"
    elif isinstance(error, TimeoutError):
        why = "no answer in time: check address, port and firewall"
    elif isinstance(error, socket.gaierror):
        why = "its host name is unknown: correct it or the name service"
    elif isinstance(error, ConnectionRefusedError):
        why = "nothing listens there: check address and port, and that it runs"
    else:
        why = f"the network says {_errno_name(error)}: check address, route and firewall"
    return f"destination can't be reached, {why}"


def _errno_name(error: Exception) -> str:
    number = error.errno if isinstance(error, OSError) else None
    return errno.errorcode.get(number or 0, type(error).__name__)


def http_trouble(status: int, *, credentials_env: str) -> Deferred | None:
    """The destination's own trouble behind an HTTP `status` that lists no instance, or None when the status can be
    about what was in the request (then the culprit is looked for).

    `credentials_env` is the destination's option of that name, for the sentence.
    """
    credentials = f"`credentials_env` = {credentials_env}" if credentials_env else "`credentials_env` is not set"
    if 200 <= status < 300:
        sentence = f"answered {status} without naming what it stored, so nothing counts as delivered: check its disk"
    elif 300 <= status < 400:
        sentence = f"redirects ({status}), which is never followed: set `url` to where it really is"
    elif status in (401, 407):
        sentence = f"does not accept our credentials ({status}; {credentials}): correct them"
    elif status == 403:
        sentence = f"does not allow these credentials to store (403; {credentials}): permit them there"
    elif status in (404, 405, 410):
        sentence = f"has no STOW-RS service there ({status}): correct `url`"
    elif status == 406:
        sentence = "can't answer in application/dicom+json (406): enable it there"
    elif status in (408, 425, 429):
        sentence = f"asks to be tried again later ({status})"
    elif status == 507:
        sentence = "has no space left (507): make room there"
    elif status >= 500 or status < 200:
        sentence = f"is in trouble of its own (HTTP {status}): see its log"
    else:
        return None
    return Deferred(f"destination {sentence}", Scope.SITE, status)


def search_trouble(status: int, *, credentials_env: str) -> str:
    """Why a QIDO-RS search that was answered with this HTTP `status` says nothing of what is there."""
    credentials = f"`credentials_env` = {credentials_env}" if credentials_env else "`credentials_env` is not set"
    if 200 <= status < 300:
        why = f"answers a search ({status}) with what is no list in application/dicom+json: enable that there"
    elif 300 <= status < 400:
        why = f"redirects a search ({status}), which is never followed: set `url` to where it really is"
    elif status in (401, 403, 407):
        why = f"does not let us search ({status}; {credentials}): permit it there"
    elif status in (404, 405, 410, 501):
        why = f"has no QIDO-RS service there ({status}): enable it, or leave `verify` out"
    elif status in (408, 425, 429):
        why = f"asks to be searched again later ({status})"
    else:
        why = f"can't be searched (HTTP {status}): see its log"
    return f"destination {why}"


def http_refusal(status: int, transfer_syntax: str) -> Failed:
    """A request that held this instance alone was refused with a 4xx `status`: the instance is the culprit."""
    if status == 413:
        sentence = "refused the instance as too large (413): raise the request size limit there"
    elif status == 415:
        sentence = f"does not take {transfer_syntax} over STOW-RS (415): enable it there or route this elsewhere"
    else:
        sentence = f"refused the instance (HTTP {status}) and gives no reason: see its log"
    return Failed(f"destination {sentence}", status)
