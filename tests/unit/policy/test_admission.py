"""Who is admitted, and what everyone else is told."""

from __future__ import annotations

import pytest

from relaypacs.config.model import Caller, Receive
from relaypacs.dicom.pdu import APPLICATION_CONTEXT, AssociateHead
from relaypacs.policy.admission import Admitted, Peer, Rejected, admit, find_caller


def head(
    calling: bytes = b"CT_1            ",
    called: bytes = b"RELAYPACS       ",
    *,
    version: int = 1,
    application: str = "",
) -> AssociateHead:
    return AssociateHead(version, called, calling, application or APPLICATION_CONTEXT, b"", b"")


CALLERS = (
    Caller(ae_title="CT_*", networks=("10.1.0.0/16", "fd00::/8")),
    Caller(ae_title="CT_9", resend="suppress"),
    Caller(ae_title="US[1]?"),
)


def decide(
    asked: AssociateHead, host: str = "10.1.2.3", callers: tuple[Caller, ...] = CALLERS, **receive: object
) -> object:
    return admit(asked, Peer(host), Receive(**receive), callers)  # type: ignore[arg-type]


def answer(decision: object) -> tuple[int, int, int]:
    assert isinstance(decision, Rejected), decision
    assert decision.sentence
    return decision.result, decision.source, decision.reason


def test_admitted_with_clean_titles() -> None:
    decision = decide(head(b" CT_1\0\0\0", b"RELAYPACS\0"))
    assert isinstance(decision, Admitted)
    assert (decision.calling_ae, decision.called_ae, decision.caller) == ("CT_1", "RELAYPACS", CALLERS[0])


@pytest.mark.parametrize(
    ("asked", "host", "expected"),
    [
        (head(b"MR_1"), "10.1.2.3", (1, 1, 3)),
        (head(b"ct_1"), "10.1.2.3", (1, 1, 3)),
        (head(b"CT_1"), "10.2.2.3", (1, 1, 3)),
        (head(b"CT_1"), "::1", (1, 1, 3)),
        (head(b""), "10.1.2.3", (1, 1, 3)),
        (head(b"CT_\n"), "10.1.2.3", (1, 1, 3)),
        (head(b"CT_\\"), "10.1.2.3", (1, 1, 3)),
        (head(b"CT_\xff"), "10.1.2.3", (1, 1, 3)),
        (head(called=b"OTHER"), "10.1.2.3", (1, 1, 7)),
        (head(called=b"relaypacs"), "10.1.2.3", (1, 1, 7)),
        (head(called=b"   "), "10.1.2.3", (1, 1, 7)),
        (head(application="1.2.3"), "10.1.2.3", (1, 1, 2)),
        (head(version=2), "10.1.2.3", (1, 2, 2)),
        (head(b"MR_1", b"OTHER", version=2), "10.1.2.3", (1, 2, 2)),
    ],
)
def test_rejected_as_the_standard_says(asked: AssociateHead, host: str, expected: tuple[int, int, int]) -> None:
    assert answer(decide(asked, host)) == expected


@pytest.mark.parametrize("host", ["10.1.255.255", "fd12::1", "::ffff:10.1.0.1", "fd00::1%eth0"])
def test_networks(host: str) -> None:
    assert isinstance(decide(head(), host), Admitted)


def test_called_title_unchecked_still_needs_one() -> None:
    assert isinstance(decide(head(called=b"ANYTHING"), check_called_ae=False), Admitted)
    assert answer(decide(head(called=b" "), check_called_ae=False)) == (1, 1, 7)


def test_blank_title_matches_no_pattern() -> None:
    assert answer(decide(head(b"\0" * 16), callers=(Caller(ae_title="*"),))) == (1, 1, 3)


def test_case_can_be_ignored() -> None:
    assert isinstance(decide(head(b"ct_1", b"relaypacs"), ae_titles_case_sensitive=False), Admitted)


def test_exact_title_comes_before_a_pattern() -> None:
    assert find_caller(CALLERS, "CT_9", case_sensitive=True) is CALLERS[1]
    assert find_caller(CALLERS, "CT_8", case_sensitive=True) is CALLERS[0]
    assert find_caller(CALLERS, "CT_9", case_sensitive=True, peer_host="192.0.2.1") is CALLERS[1]


def test_brackets_mean_themselves() -> None:
    assert find_caller(CALLERS, "US[1]A", case_sensitive=True) is CALLERS[2]
    assert find_caller(CALLERS, "US1A", case_sensitive=True) is None


def test_nobody_without_callers() -> None:
    assert answer(decide(head(), callers=())) == (1, 1, 3)
