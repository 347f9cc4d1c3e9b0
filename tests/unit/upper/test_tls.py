"""TLS as bytes in and out: what is agreed on, which names are handed on, and what failures say."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

import pytest

from relaypacs.upper.tls import Channel, ClientTls, TlsFailed, server_context
from tests.peers.pki import Authority, Identity, openssl


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki") / "ca")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki") / "other", "Other CA")


@pytest.fixture(scope="module")
def server(authority: Authority) -> Identity:
    return authority.issue()


def listening(identity: Identity, client_ca: Path | None = None, clients: str = "none") -> Channel:
    return Channel(server_context(identity.certificate, identity.key, client_ca, clients))


def shake(client: Channel, server: Channel) -> tuple[str, str]:
    """Carry bytes to and fro; what the client and the server found wrong."""
    wrong = {client: "", server: ""}
    for _ in range(5):
        for one, peer in ((client, server), (server, client)):
            try:
                if not one.handshake():
                    pass
                elif one is client:
                    one.read_into(memoryview(bytearray(1)))  # TLS 1.3: the server judges our certificate after that
            except TlsFailed as error:
                wrong[one] = wrong[one] or str(error)
            if data := one.output():
                peer.feed(data)
    return wrong[client], wrong[server]


def trusting(authority: Authority, identity: Identity | None = None, server_name: str = "") -> ClientTls:
    if identity is None:
        return ClientTls(ca=authority.certificate, server_name=server_name)
    return ClientTls(
        ca=authority.certificate, certificate=identity.certificate, key=identity.key, server_name=server_name
    )


def test_both_sides_agree_on_tls_1_3(authority: Authority, server: Identity) -> None:
    ours, theirs = trusting(authority).channel("127.0.0.1"), listening(server)
    assert shake(ours, theirs) == ("", "")
    assert ours._tls.version() == "TLSv1.3"
    theirs.feed(ours.encrypt(b"A-ASSOCIATE-RQ"))
    view = memoryview(bytearray(100))
    assert theirs.read_into(view) == 14
    assert bytes(view[:14]) == b"A-ASSOCIATE-RQ"
    assert theirs.exhausted
    assert theirs.read_into(view) == -1
    theirs.feed(ours.goodbye())
    assert theirs.read_into(view) == 0


def test_names_are_those_that_openssl_shows(authority: Authority, server: Identity) -> None:
    subject = "/C=DE/O=Klinik, Nord+Süd/OU= Radiology/CN=ct1"
    alternative = "DNS:ct1.clinic.example,IP:10.0.0.1,URI:urn:ct1,email:ct1@clinic.example"
    shown = authority.issue(subject, names=alternative)
    theirs = listening(server, authority.certificate, "optional")
    assert shake(trusting(authority, shown).channel("localhost"), theirs) == ("", "")
    names = theirs.peer_names()
    expected = openssl(
        "x509", "-in", shown.certificate, "-noout", "-subject", "-nameopt", "RFC2253,-esc_msb,utf8"
    ).removeprefix("subject=")
    assert names[0] == expected.strip()
    assert names[1:] == ("DNS:ct1.clinic.example", "IP:10.0.0.1", "URI:urn:ct1", "email:ct1@clinic.example")


def test_no_certificate_no_names(authority: Authority, server: Identity) -> None:
    theirs = listening(server, authority.certificate, "optional")
    assert shake(trusting(authority).channel("localhost"), theirs) == ("", "")
    assert theirs.peer_names() == ()


def test_a_certificate_of_its_own_may_be_trusted_alone(authority: Authority, server: Identity) -> None:
    pinned = ClientTls(ca=server.certificate)
    assert shake(pinned.channel("localhost"), listening(server)) == ("", "")
    other_one = authority.issue()
    wrong, _ = shake(pinned.channel("localhost"), listening(other_one))
    assert "no CA we trust" in wrong


def test_what_the_requestor_finds_wrong(authority: Authority, other: Authority, server: Identity) -> None:
    def wrong(identity: Identity, client: ClientTls, host: str = "localhost") -> str:
        return shake(client.channel(host), listening(identity))[0]

    assert "has expired: renew it there" in wrong(authority.issue(days=-1), trusting(authority))
    assert "add the issuer to `tls_ca`" in wrong(server, trusting(other))
    assert "set `tls_server_name`" in wrong(server, trusting(authority), "pacs.example")
    assert "set `tls_server_name`" in wrong(server, trusting(authority), "10.1.1.1")
    assert wrong(server, trusting(authority, server_name="localhost"), "10.1.1.1") == ""
    assert wrong(authority.issue("/CN=pacs", names=""), trusting(authority, server_name="pacs"), "10.1.1.1") == ""
    assert "extended key usage" in wrong(authority.issue(usage="clientAuth"), trusting(authority))


@pytest.mark.parametrize(
    ("identity", "clients", "ours", "theirs"),
    [
        ("none", "required", "it requires a certificate of ours: set `tls_certificate`", "it shows no certificate"),
        ("expired", "required", "our certificate has expired: renew it", "its certificate has expired"),
        (
            "foreign",
            "optional",
            "does not trust the issuer of our certificate",
            r"add the issuer to `\[tls\] client_ca`",
        ),
        ("for servers", "required", "it refuses the kind of our certificate", "extended key usage"),
    ],
)
def test_what_both_say_of_a_client_certificate(
    authority: Authority, other: Authority, identity: str, clients: str, *, ours: str, theirs: str
) -> None:
    shown = {
        "none": None,
        "expired": authority.issue("/CN=ct1", days=-1),
        "foreign": other.issue("/CN=ct1"),
        "for servers": authority.issue("/CN=ct1", usage="serverAuth"),
    }[identity]
    client, listener = shake(
        trusting(authority, shown).channel("localhost"), listening(authority.issue(), authority.certificate, clients)
    )
    assert re.search(ours, client), client
    assert re.search(theirs, listener), listener


def test_nothing_older_and_nothing_weaker_than_b_12(authority: Authority, server: Identity) -> None:
    def try_with(**settings: object) -> tuple[str, str]:
        tls = trusting(authority)
        context = tls.context()
        for name, value in settings.items():
            if name == "ciphers":
                context.set_ciphers(str(value))
                context.maximum_version = ssl.TLSVersion.TLSv1_2
            else:
                setattr(context, name, value)
        return shake(Channel(context, server_name="localhost"), listening(server))

    for cipher in ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384"):
        assert try_with(ciphers=cipher) == ("", "")
    for cipher in ("ECDHE-ECDSA-AES256-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305", "AES128-GCM-SHA256"):
        client, listener = try_with(ciphers=cipher)
        assert "no common cipher suite" in client
        assert "no cipher suite is common" in listener


@pytest.mark.parametrize("cipher", ["ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384"])
def test_rsa_certificates(authority: Authority, cipher: str) -> None:
    tls = trusting(authority)
    context = tls.context()
    context.set_ciphers(cipher)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    rsa = authority.issue(key_type=("rsa:2048",))
    assert shake(Channel(context, server_name="localhost"), listening(rsa)) == ("", "")


def test_files_that_do_not_do(authority: Authority, server: Identity, tmp_path: Path) -> None:
    def wrong(certificate: Path, key: Path | None = None, ca: Path | None = None) -> str:
        with pytest.raises(TlsFailed) as caught:
            server_context(certificate, key, ca, "required" if ca else "none")
        return str(caught.value)

    text, locked = tmp_path / "text.pem", tmp_path / "locked.key"
    text.write_text("no certificate")
    openssl("ec", "-aes128", "-passout", "pass:secret", "-in", server.key, "-out", locked)
    assert "No such file" in wrong(tmp_path / "missing.pem", server.key)
    assert "No such file" in wrong(server.certificate, tmp_path / "missing.key")
    assert "Is a directory" in wrong(tmp_path)
    assert "not a certificate and its key in PEM" in wrong(text, server.key)
    assert "not a certificate and its key in PEM" in wrong(server.certificate)
    assert "does not belong to this certificate" in wrong(server.certificate, authority.issue().key)
    assert "has a pass phrase" in wrong(server.certificate, locked)
    assert "holds no certificate" in wrong(server.certificate, server.key, text)
    weak = authority.issue(key_type=("rsa:1024",))
    assert "too weak" in wrong(weak.certificate, weak.key)


def test_a_changed_file_counts_for_the_next_connection(
    authority: Authority, other: Authority, server: Identity, tmp_path: Path
) -> None:
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(other.certificate.read_bytes())
    tls = ClientTls(ca=trusted)
    assert shake(tls.channel("localhost"), listening(server))[0]
    trusted.write_bytes(other.certificate.read_bytes() + authority.certificate.read_bytes())
    assert shake(tls.channel("localhost"), listening(server)) == ("", "")
    trusted.unlink()
    with pytest.raises(TlsFailed, match="No such file"):
        tls.channel("localhost")


def test_a_name_that_is_none() -> None:
    with pytest.raises(TlsFailed, match="tls_server_name"):
        ClientTls(server_name=".pacs").channel("localhost")


def test_damaged_records_end_it(authority: Authority, server: Identity) -> None:
    ours, theirs = trusting(authority).channel("localhost"), listening(server)
    shake(ours, theirs)
    good, bad = ours.encrypt(b"good"), bytearray(ours.encrypt(b"bad"))
    bad[-1] ^= 1
    theirs.feed(good + bytes(bad))
    view = memoryview(bytearray(100))
    assert theirs.read_into(view) == 4
    for _ in range(2):
        with pytest.raises(TlsFailed, match=r"bad_record_mac|decryption_failed"):
            theirs.read_into(view)
    assert theirs.has_output
