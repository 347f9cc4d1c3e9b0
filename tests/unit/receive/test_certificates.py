"""When certificates expire, against what openssl says; options of TLS that contradict each other."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from relaypacs.config.model import Destination, Tls
from relaypacs.receive.certificates import Certificates
from relaypacs.upper.expiry import first_expiry
from relaypacs.upper.tls import TlsFailed
from tests.peers.pki import Authority, Identity, openssl


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki") / "ca")


def end_of(identity: Identity) -> float:
    text = openssl("x509", "-in", identity.certificate, "-noout", "-enddate").strip().removeprefix("notAfter=")
    return datetime.strptime(text, "%b %d %H:%M:%S %Y %Z").replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize("days", [-1, 20, 3650, 30_000])
def test_expiry_is_what_openssl_says(authority: Authority, days: int) -> None:
    """30,000 days end after 2050, which is written in another form (RFC 5280 4.1.2.5)."""
    identity = authority.issue(days=days)
    assert first_expiry(identity.certificate.read_text()) == end_of(identity)


def test_the_first_of_a_chain_counts(authority: Authority) -> None:
    late, early = authority.issue(days=25), authority.issue(days=3)
    chain = late.certificate.read_text() + "some text between\n" + early.certificate.read_text()
    assert first_expiry(chain) == end_of(early)


def test_certificates_must_do_at_the_start(authority: Authority, tmp_path: Path) -> None:
    good = authority.issue()
    Certificates(Tls(certificate=str(good.certificate), key=str(good.key)))
    with pytest.raises(TlsFailed, match="No such file"):
        Certificates(Tls(certificate=str(tmp_path / "none.pem"), key=str(good.key)))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"listen": ("0.0.0.0:2762",)}, "`listen` needs `certificate`"),
        ({"client_certificates": "required"}, "needs `client_ca`"),
        ({"client_ca": "/ca.pem"}, "`client_ca` is for"),
        ({"certificate": "node.pem"}, "absolute path"),
        ({"listen": ("2762",)}, "HOST:PORT"),
    ],
)
def test_what_contradicts_itself_names_the_mend(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        Tls(**options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tls_ca": "/ca.pem"}, "are for tls = true"),
        ({"tls": True, "tls_key": "/our.key"}, "`tls_key` needs `tls_certificate`"),
        ({"tls": True, "tls_ca": "ca.pem"}, "absolute path"),
    ],
)
def test_so_do_destinations(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        Destination(name="pacs", kind="dimse", host="pacs", called_ae="PACS", **options)


def test_tls_of_a_dicomweb_destination_is_https() -> None:
    with pytest.raises(ValidationError, match="write https in `url`"):
        Destination(name="web", kind="dicomweb", url="https://pacs/dicom-web", tls=True)
