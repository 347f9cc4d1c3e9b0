"""Called AE titles and user identities of callers, and one rejection for every cause."""

from __future__ import annotations

import pytest

from relaypacs.config.model import Caller, Receive
from relaypacs.config.secrets import Credentials
from relaypacs.dicom.pdu import HEADER_BYTES, AssociateHead, PduError, read_associate_head
from relaypacs.policy.admission import Admitted, Peer, Rejected, admit
from tests.peers.raw import associate_rq, item
from tests.unit.dicom.test_identity import identity

RECEIVE = Receive(ae_titles=("RELAYPACS", "RESEARCH"))
TLS, PLAIN = Peer("10.1.2.3", tls=True), Peer("10.1.2.3")
NAMED = Caller(ae_title="CT_1", credentials_env="CT1")
SECRET = Caller(ae_title="CT_2", credentials_env="CT2")
CALLERS = (
    Caller(ae_title="*"),
    NAMED,
    SECRET,
    Caller(ae_title="MR", called_ae=("RESEARCH",)),
    Caller(ae_title="US", networks=("10.9.0.0/16",), called_ae=("RESEARCH",)),
)
CREDENTIALS = {NAMED: Credentials(username="ct"), SECRET: Credentials(username="ct", password="pässword")}


def head(calling: str, called: str = "RELAYPACS", more: bytes = b"") -> AssociateHead:
    return read_associate_head(associate_rq(calling=calling.encode(), called=called.encode(), more=more)[HEADER_BYTES:])


def decide(
    asked: AssociateHead, peer: Peer = TLS, callers: tuple[Caller, ...] = CALLERS, *, conceal: bool = False
) -> Admitted | Rejected:
    return admit(asked, peer, RECEIVE.model_copy(update={"conceal": conceal}), callers, CREDENTIALS)


def test_a_caller_has_called_ae_titles_of_its_own() -> None:
    strict = CALLERS[3:]
    assert isinstance(decide(head("MR", "RESEARCH"), callers=strict), Admitted)
    refused = decide(head("MR", "RELAYPACS"), callers=strict)
    assert isinstance(refused, Rejected)
    assert (refused.result, refused.source, refused.reason, refused.word) == (1, 1, 7, "called-ae")
    assert "called_ae" in refused.sentence


def test_the_entry_that_fits_in_everything_is_the_one() -> None:
    archive, research = Caller(ae_title="MR", called_ae=("RELAYPACS",)), CALLERS[3]
    for callers in ((archive, research), (research, archive)):
        for called, expected in (("RELAYPACS", archive), ("RESEARCH", research)):
            admitted = decide(head("MR", called), callers=callers)
            assert isinstance(admitted, Admitted)
            assert admitted.caller is expected


RIGHT = identity(2, b"ct", "pässword".encode(), 1)


@pytest.mark.parametrize(
    ("calling", "peer", "shown", "admitted"),
    [
        ("CT_1", TLS, identity(1, b"ct"), True),
        ("CT_2", TLS, RIGHT, True),
        ("CT_1", PLAIN, identity(1, b"ct"), False),
        ("CT_2", PLAIN, RIGHT, False),
        ("CT_1", TLS, b"", False),
        ("CT_1", TLS, identity(1, b""), False),
        ("CT_1", TLS, identity(1, b"CT"), False),
        ("CT_1", TLS, identity(1, b"ct2"), False),
        ("CT_1", TLS, identity(2, b"ct", b""), False),
        ("CT_1", TLS, identity(2, b"ct", b"anything"), False),
        ("CT_2", TLS, identity(1, b"ct"), False),
        ("CT_2", TLS, identity(2, b"ct", b"password"), False),
        ("CT_2", TLS, identity(2, b"ct", b""), False),
        ("CT_2", TLS, identity(2, b"", b""), False),
        ("CT_2", TLS, identity(2, b"xx", "pässword".encode()), False),
        ("CT_2", TLS, identity(3, b"ct", "pässword".encode()), False),
        ("CT_1", TLS, identity(3, b"ct"), False),
        ("CT_1", TLS, identity(4, b"ct"), False),
        ("CT_1", TLS, identity(5, b"ct"), False),
        ("CT_1", TLS, identity(0, b"ct"), False),
        ("OTHER", TLS, b"", True),
        ("OTHER", TLS, identity(1, b"ct"), False),
    ],
)
def test_user_identity(calling: str, peer: Peer, shown: bytes, admitted: bool) -> None:
    # The entry `*` is in the file too: it excuses nobody from what the entry of his own title wants.
    decision = decide(head(calling, more=shown), peer)
    if admitted:
        assert isinstance(decision, Admitted)
    else:
        assert isinstance(decision, Rejected)
        assert (decision.result, decision.source, decision.reason, decision.word) == (1, 1, 1, "user-identity")
        assert "pässword" not in decision.sentence


@pytest.mark.parametrize(
    "own",
    [
        Caller(ae_title="CT_3", credentials_env="CT3", networks=("10.9.0.0/16",)),
        Caller(ae_title="CT_3", certificate=("CN=ct3",), networks=("10.9.0.0/16",)),
        Caller(ae_title="CT_3", credentials_env="CT3", called_ae=("RESEARCH",)),
        Caller(ae_title="CT_3", certificate=("CN=ct3",), called_ae=("RESEARCH",)),
    ],
)
def test_no_pattern_takes_in_who_comes_from_elsewhere_under_a_title_that_must_be_proven(own: Caller) -> None:
    for callers in ((Caller(ae_title="*"), own), (own, Caller(ae_title="CT_?"))):
        assert isinstance(decide(head("CT_3"), callers=callers), Rejected)
        assert isinstance(decide(head("CT_4"), callers=callers), Admitted)


def test_a_title_that_nothing_is_to_prove_may_be_a_patterns_elsewhere() -> None:
    admitted = decide(head("US"))
    assert isinstance(admitted, Admitted)
    assert admitted.caller is CALLERS[0]


@pytest.mark.parametrize(("kind", "name"), [(3, "Kerberos"), (4, "SAML"), (5, "JSON web token"), (77, "unknown type")])
def test_what_is_not_supported_is_named(kind: int, name: str) -> None:
    decision = decide(head("CT_1", more=identity(kind, b"ct")))
    assert isinstance(decision, Rejected)
    assert name in decision.sentence


def test_without_its_secret_nobody_is_admitted() -> None:
    for shown in (identity(1, b""), identity(2, b"", b""), b""):
        decision = admit(head("CT_1", more=shown), TLS, RECEIVE, (NAMED,), {})
        assert isinstance(decision, Rejected)
        decision = admit(head("CT_1", more=shown), TLS, RECEIVE, (NAMED,), {NAMED: Credentials()})
        assert isinstance(decision, Rejected)


def test_a_broken_identity_is_no_matter_of_admission() -> None:
    with pytest.raises(PduError):
        decide(head("NOBODY", more=item(0x58, b"\1")), callers=())


def test_concealed_causes_look_the_same() -> None:
    asked = (
        (head("CT_1"), TLS),
        (head("CT_1", "WRONG"), TLS),
        (head("CT_1", more=identity(3, b"x")), TLS),
        (head(" "), TLS),
        (head("NOBODY"), TLS),
        (head("US", "RESEARCH"), TLS),
        (head("MR"), TLS),
    )
    known = CALLERS[1:]
    answers = [decide(one, peer, known, conceal=True) for one, peer in asked]
    assert all(isinstance(one, Rejected) for one in answers)
    assert {(one.result, one.source, one.reason) for one in answers if isinstance(one, Rejected)} == {(1, 1, 1)}
    words = [one.word for one in answers if isinstance(one, Rejected)]
    assert words == [
        "user-identity",
        "called-ae",
        "user-identity",
        "calling-ae",
        "calling-ae",
        "calling-ae",
        "called-ae",
    ]
    assert isinstance(decide(head("MR", "RESEARCH"), TLS, known, conceal=True), Admitted)


CERTIFIED = (
    Caller(ae_title="*"),
    Caller(ae_title="CT_1", certificate=("CN=ct1,O=Clinic", "DNS:*.ct.example")),
)
SUBJECT = ("CN=ct1,O=Clinic", "DNS:ct1.clinic.example")


@pytest.mark.parametrize(
    ("calling", "names", "admitted"),
    [
        ("CT_1", SUBJECT, True),
        ("CT_1", ("CN=x", "DNS:a.ct.example"), True),
        ("CT_1", (), False),
        ("CT_1", ("CN=ct1",), False),
        ("CT_1", ("CN=ct1,O=Clinic,C=DE",), False),
        ("CT_1", ("CN=CN=ct1\\,O=Clinic",), False),
        ("CT_1", ("cn=ct1,o=clinic",), False),
        ("CT_2", SUBJECT, True),
        ("CT_2", (), True),
    ],
)
def test_a_certificate_is_bound_to_its_caller(calling: str, names: tuple[str, ...], admitted: bool) -> None:
    decision = decide(head(calling), Peer("10.1.2.3", tls=True, certificate_names=names), CERTIFIED)
    if admitted:
        assert isinstance(decision, Admitted)
    else:
        assert isinstance(decision, Rejected)
        assert (decision.result, decision.source, decision.reason, decision.word) == (1, 1, 3, "certificate")
        assert "certificate" in decision.sentence
    concealed = decide(head("CT_1"), Peer("10.1.2.3"), CERTIFIED, conceal=True)
    assert isinstance(concealed, Rejected)
    assert (concealed.result, concealed.source, concealed.reason) == (1, 1, 1)


def test_who_has_to_show_a_certificate_is_told_that_it_takes_tls() -> None:
    plain, tls = (decide(head("CT_1"), Peer("10.1.2.3", tls=one), CERTIFIED) for one in (False, True))
    assert isinstance(plain, Rejected)
    assert isinstance(tls, Rejected)
    assert (plain.word, "let it connect with TLS" in plain.sentence) == ("certificate", True)
    assert (tls.word, "its certificate is none" in tls.sentence) == ("certificate", True)


def test_a_certificate_and_a_user_identity() -> None:
    both = Caller(ae_title="CT_1", certificate=SUBJECT[:1], credentials_env="CT1")
    peer = Peer("10.1.2.3", tls=True, certificate_names=SUBJECT)
    right = {both: Credentials(username="ct")}
    shown = head("CT_1", more=identity(1, b"ct"))
    assert isinstance(admit(shown, peer, RECEIVE, (both,), right), Admitted)
    assert isinstance(admit(head("CT_1"), peer, RECEIVE, (both,), right), Rejected)
    assert isinstance(admit(shown, TLS, RECEIVE, (both,), right), Rejected)
