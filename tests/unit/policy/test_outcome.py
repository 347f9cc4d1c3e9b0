"""Each answer of a peer has one meaning, and every reason says where the mend is."""

from __future__ import annotations

import errno
import socket
import ssl

import pytest

from relaypacs.model import Deferred, Delivered, Failed, Scope
from relaypacs.policy.outcome import (
    http_refusal,
    http_trouble,
    no_context,
    out_of_resources,
    rejected,
    store_outcome,
    stow_outcome,
    unreachable,
)


@pytest.mark.parametrize("status", [0x0000, 0x0111])
def test_delivered(status: int) -> None:
    """Success, and the destination has it already (PS3.7 C.5.7)."""
    assert store_outcome(status) == Delivered(status)


@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007, 0xBFFF, 0x0001, 0x0107, 0x0116])
def test_warnings_are_delivered(status: int) -> None:
    """PS3.4 B.2.3 and the general warnings of PS3.7 C.4."""
    assert store_outcome(status) == Delivered(status, warning=True)


@pytest.mark.parametrize("status", [0xA900, 0xA9FF, 0xC000, 0xC123, 0xC122, 0xCFFF, 0x0117, 0x0118, 0x0122, 0x0124])
def test_refused_for_good(status: int) -> None:
    outcome = store_outcome(status)
    assert isinstance(outcome, Failed)
    assert outcome.status == status
    assert f"{status:04X}" in outcome.reason
    assert ":" in outcome.reason


@pytest.mark.parametrize("status", [0xA700, 0xA777, 0x0110, 0x0213, 0x0105, 0x4711, 0xFE00, 0xFF00, 0xFFFF])
def test_later(status: int) -> None:
    """Out of resources, and whatever is unknown: the retry schedule ends it."""
    outcome = store_outcome(status)
    assert isinstance(outcome, Deferred)
    assert (outcome.scope, outcome.status) == (Scope.INSTANCE, status)
    assert f"{status:04X}" in outcome.reason


def test_every_status_has_an_outcome() -> None:
    for status in range(0x10000):
        outcome = store_outcome(status)
        delivered = isinstance(outcome, Delivered)
        assert delivered == (status in (0, 1, 0x0107, 0x0111, 0x0116) or 0xB000 <= status <= 0xBFFF)


def test_out_of_resources() -> None:
    assert [status for status in range(0x10000) if out_of_resources(status)] == [0x0213, *range(0xA700, 0xA800)]
    assert not out_of_resources(None)


def test_listed_as_failed_is_never_delivered_unless_it_is_there() -> None:
    """A Bxxx failure reason is no warning: the instance is listed as failed."""
    for reason in range(0x10000):
        assert isinstance(stow_outcome(reason), Delivered) == (reason in (0x0111, 45070))
    assert isinstance(stow_outcome(0xA900), Failed)
    assert isinstance(stow_outcome(0xB000), Deferred)
    assert isinstance(stow_outcome(0xA700), Deferred)
    assert isinstance(stow_outcome(None), Deferred)


@pytest.mark.parametrize(
    "status", [200, 202, 204, 301, 308, 401, 403, 404, 405, 406, 407, 408, 410, 425, 429, 500, 503]
)
def test_http_statuses_that_are_the_destinations_own_trouble(status: int) -> None:
    trouble = http_trouble(status, credentials_env="ARC")
    assert trouble is not None
    assert (trouble.scope, trouble.status) == (Scope.SITE, status)
    assert str(status) in trouble.reason
    assert ("ARC" in trouble.reason) == (status in (401, 403, 407))


@pytest.mark.parametrize("status", [400, 402, 409, 411, 413, 414, 415, 417, 418, 422, 431, 451])
def test_http_statuses_that_can_be_about_the_instance(status: int) -> None:
    assert http_trouble(status, credentials_env="") is None
    refusal = http_refusal(status, "JPEG Baseline")
    assert refusal.status == status
    assert str(status) in refusal.reason


def test_sentences_name_the_mend() -> None:
    assert no_context("CT Image Storage", "JPEG Baseline").reason == (
        "destination accepts no presentation context for CT Image Storage in JPEG Baseline: "
        "enable it there or route this elsewhere"
    )
    assert "JPEG Baseline" in http_refusal(415, "JPEG Baseline").reason
    assert "request size limit" in http_refusal(413, "").reason
    assert "`calling_ae`" in rejected(1, 1, 3)
    assert "`called_ae`" in rejected(1, 1, 7)
    assert "for now (2/3/2)" in rejected(2, 3, 2)
    assert "9/9/9" in rejected(9, 9, 9)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ConnectionRefusedError(), "nothing listens"),
        (TimeoutError(), "no answer in time"),
        (socket.gaierror(-2, "x"), "host name"),
        (ssl.SSLCertVerificationError(), "certificate"),
        (ssl.SSLError(), "TLS handshake"),
        (OSError(errno.EHOSTUNREACH, "x"), "EHOSTUNREACH"),
        (ValueError("secret"), "ValueError"),
    ],
)
def test_unreachable(error: Exception, says: str) -> None:
    sentence = unreachable(error)
    assert says in sentence
    assert "secret" not in sentence
