"""Whether a destination can be reached, and if not, why: C-ECHO for dimse, a small QIDO-RS search for dicomweb.

Used by the command line, by readiness checks and by the workers' probe, which asks only whether it `answers`: whoever
answers at all is tried with an instance, for there are PACS without Verification and services that let us store and not
search. Never raises for anything a network or a peer does.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from relaypacs.config.destination import ORIGINAL
from relaypacs.config.model import Destination
from relaypacs.dicom.contexts import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, VERIFICATION
from relaypacs.dicom.pdu import MAX_CONTEXTS
from relaypacs.errors import ConfigError
from relaypacs.forward.authorization import Authorization
from relaypacs.forward.http import Answer, ConnectFailed, ExchangeFailed, HttpPeer
from relaypacs.forward.lane import sentence
from relaypacs.forward.memory import Pair
from relaypacs.forward.tls import client_tls, web_tls
from relaypacs.policy.outcome import http_trouble
from relaypacs.upper.association import associate
from relaypacs.upper.errors import AssociationRejected, UpperError

_LONGEST_ANSWER_BYTES = 1 << 20
_NO_VERIFICATION = "destination accepts the association but not Verification: enable C-ECHO there"
_CALLING_AE_UNKNOWN = (1, 3)  # source and reason, PS3.8 table 9-21
_MAY_STILL_STORE = (403, 501)
"""HTTP statuses of a search that say nothing of storing: an empty STOW-RS request is asked then."""


class Echo(NamedTuple):
    """How it went, one sentence about it, how long it took, and whether it can be worked with at all."""

    ok: bool
    sentence: str
    milliseconds: float
    answers: bool
    """True also where it has no Verification, refuses the C-ECHO, or knows only those whose titles we pass on."""
    retry_after_seconds: float = 0.0
    """What it asked for (Retry-After), or 0."""
    status: int | None = None
    """dicomweb: the HTTP status of the search, if there was an answer."""


def echo(
    destination: Destination,
    *,
    calling_ae: str,
    environment: Mapping[str, str] = os.environ,
    authorization: Authorization | None = None,
    known: Sequence[Pair] = (),
) -> Echo:
    """Ask the destination. `calling_ae` is presented if it configures none; credentials come from `environment`, or
    from the destination's own `authorization`. `known`: what it takes, since some refuse an association for
    Verification alone.

    A dicomweb destination is reached when it gives any HTTP answer that is not 401, 403, 408, 425, 429, a redirect or
    5xx.
    """
    started = time.monotonic()
    answer = None
    if destination.kind == "dicomweb":
        trouble, answers, answer = _echo_web(destination, environment, authorization)
    else:
        trouble, answers = _echo_dimse(destination, calling_ae, known)
    how = "answers C-ECHO" if destination.kind == "dimse" else "answers HTTP"
    found = Echo(not trouble, trouble or f"destination {how}", (time.monotonic() - started) * 1000, answers)
    return (
        found
        if answer is None
        else found._replace(retry_after_seconds=answer.retry_after_seconds, status=answer.status)
    )


def _echo_dimse(destination: Destination, calling_ae: str, known: Sequence[Pair]) -> tuple[str, bool]:
    """The trouble, or nothing, and whether it answers all the same."""
    own = "" if destination.calling_ae == ORIGINAL else destination.calling_ae
    verification = (VERIFICATION, (IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN))
    storage = [(sop_class, (syntax,)) for sop_class, syntax in known[: MAX_CONTEXTS - 1]]
    try:
        association = associate(
            destination.host,
            destination.port,
            calling_ae=own or calling_ae,
            called_ae=destination.called_ae,
            contexts=[verification, *storage],
            connect_timeout_seconds=destination.connect_timeout_seconds,
            response_timeout_seconds=destination.response_timeout_seconds,
            tls=client_tls(destination),
        )
        if not any(abstract_syntax == VERIFICATION for abstract_syntax, _ in association.accepted):
            association.release()
            return _NO_VERIFICATION, True
        status = association.echo()
        association.release()
    except UpperError as problem:
        # Who passes on the senders' titles may itself be a stranger there.
        stranger = isinstance(problem, AssociationRejected) and (problem.source, problem.reason) == _CALLING_AE_UNKNOWN
        said = sentence(problem, response_timeout_seconds=destination.response_timeout_seconds)
        return said, stranger and destination.calling_ae == ORIGINAL
    return f"destination answers C-ECHO with status {status:04X}: see its log" if status else "", True


def _echo_web(
    destination: Destination, environment: Mapping[str, str], authorization: Authorization | None
) -> tuple[str, bool, Answer | None]:
    """The trouble, or nothing; whether it answers all the same; the answer to the search."""
    try:
        authorization = authorization or Authorization(destination, environment)
        peer = HttpPeer(
            destination.url,
            authorization.shown,
            connect_timeout_seconds=destination.connect_timeout_seconds,
            response_timeout_seconds=destination.response_timeout_seconds,
            tls=web_tls(destination),
            renew=authorization.renew,
        )
        try:
            answer = peer.request(
                "GET",
                "/studies?limit=1",
                headers={"Accept": "application/dicom+json"},
                limit_bytes=_LONGEST_ANSWER_BYTES,
            )
            trouble = _trouble(answer.status, destination)
            answers = not trouble or (answer.status in _MAY_STILL_STORE and _may_store(peer, destination))
        finally:
            peer.close()
    except (ConnectFailed, ExchangeFailed, ConfigError) as problem:
        return str(problem), False, None
    return trouble, answers, answer


def _trouble(status: int, destination: Destination) -> str:
    """What an HTTP status says is wrong with the destination, or nothing: it answers."""
    if status in (401, 403, 407, 408, 425, 429) or 300 <= status < 400 or status >= 500:
        trouble = http_trouble(status, credentials_env=destination.credentials_env)
        return trouble.reason if trouble else ""
    return ""


def _may_store(peer: HttpPeer, destination: Destination) -> bool:
    """Whether a STOW-RS request without any instance is not refused for what the destination or our rights are."""
    boundary = secrets.token_hex(16)
    end = f"--{boundary}--\r\n".encode()

    def body() -> Iterator[bytes]:
        yield end

    answer = peer.request(
        "POST",
        "/studies",
        headers={
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Content-Length": str(len(end)),
            "Accept": "application/dicom+json",
        },
        body=body,
        limit_bytes=_LONGEST_ANSWER_BYTES,
    )
    return not _trouble(answer.status, destination) and answer.status not in (404, 405, 410)
