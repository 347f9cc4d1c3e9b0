"""Whether a destination can be reached, and if not, why: C-ECHO for dimse, a small QIDO-RS search for dicomweb.

Used by the command line and by readiness checks. Never raises for anything a network or a peer does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import NamedTuple

from relaypacs.config.model import Destination
from relaypacs.dicom.contexts import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, VERIFICATION
from relaypacs.errors import ConfigError
from relaypacs.forward.authorization import Authorization
from relaypacs.forward.http import ConnectFailed, ExchangeFailed, HttpPeer
from relaypacs.forward.lane import sentence
from relaypacs.forward.tls import client_tls, web_tls
from relaypacs.policy.outcome import http_trouble
from relaypacs.upper.association import associate
from relaypacs.upper.errors import UpperError

_LONGEST_ANSWER_BYTES = 1 << 20
_NO_VERIFICATION = "destination accepts the association but not Verification: enable C-ECHO there"


class Echo(NamedTuple):
    """How it went, one sentence about it, how long it took, and whether it can be worked with at all."""

    ok: bool
    sentence: str
    milliseconds: float
    answers: bool
    """True also where it takes associations and has no Verification."""


def echo(destination: Destination, *, calling_ae: str, environment: Mapping[str, str] = os.environ) -> Echo:
    """Ask the destination. `calling_ae` is presented if it configures none; credentials come from `environment`.

    A dicomweb destination is reached when it gives any HTTP answer that is not 401, 403, a redirect or 5xx.
    """
    started = time.monotonic()
    trouble = (
        _echo_web(destination, environment) if destination.kind == "dicomweb" else _echo_dimse(destination, calling_ae)
    )
    how = "answers C-ECHO" if destination.kind == "dimse" else "answers HTTP"
    answers = not trouble or trouble == _NO_VERIFICATION
    return Echo(not trouble, trouble or f"destination {how}", (time.monotonic() - started) * 1000, answers)


def _echo_dimse(destination: Destination, calling_ae: str) -> str:
    """The trouble, or nothing."""
    try:
        association = associate(
            destination.host,
            destination.port,
            calling_ae=destination.calling_ae or calling_ae,
            called_ae=destination.called_ae,
            contexts=[(VERIFICATION, (IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN))],
            connect_timeout_seconds=destination.connect_timeout_seconds,
            response_timeout_seconds=destination.response_timeout_seconds,
            tls=client_tls(destination),
        )
        if not association.accepted:
            association.abort()
            return _NO_VERIFICATION
        status = association.echo()
        association.release()
    except UpperError as problem:
        return sentence(problem, response_timeout_seconds=destination.response_timeout_seconds)
    return f"destination answers C-ECHO with status {status:04X}: see its log" if status else ""


def _echo_web(destination: Destination, environment: Mapping[str, str]) -> str:
    """The trouble, or nothing."""
    try:
        authorization = Authorization(destination, environment)
        peer = HttpPeer(
            destination.url,
            authorization.shown,
            connect_timeout_seconds=destination.connect_timeout_seconds,
            response_timeout_seconds=destination.response_timeout_seconds,
            tls=web_tls(destination),
        )
        try:
            answer = peer.request(
                "GET",
                "/studies?limit=1",
                headers={"Accept": "application/dicom+json"},
                limit_bytes=_LONGEST_ANSWER_BYTES,
            )
        finally:
            peer.close()
    except (ConnectFailed, ExchangeFailed, ConfigError) as problem:
        return str(problem)
    if answer.status in (401, 403, 407) or 300 <= answer.status < 400 or answer.status >= 500:
        trouble = http_trouble(answer.status, credentials_env=destination.credentials_env)
        return trouble.reason if trouble else ""
    return ""
