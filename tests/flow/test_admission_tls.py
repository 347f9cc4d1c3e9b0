"""What a caller proves inside TLS: its certificate's names, its user identity. Shown by DCMTK and byte by byte."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relaypacs.config.model import Caller
from tests.peers import dcmtk
from tests.peers.pki import Authority, Identity, client
from tests.peers.ports import wait_until
from tests.peers.raw import ABORT, AC, RJ, associate_rq
from tests.peers.receiver import Receiver
from tests.samples import write_mr_series
from tests.unit.dicom.test_identity import identity


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki") / "ca")


@pytest.fixture(scope="module")
def modality(authority: Authority) -> Identity:
    return authority.issue("/O=Clinic/CN=ct1", names="DNS:ct1.clinic.example")


@pytest.fixture
def receiver(tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    secret = tmp_path / "secret"
    secret.write_text("päss\n")
    # Variables as an administrator sets them.
    for name, value in (("CT1_USERNAME", "ct"), ("CT1_PASSWORD_FILE", str(secret)), ("CT2_USERNAME", "ct")):
        monkeypatch.setenv(name, value)
    callers = (
        Caller(ae_title="*"),
        Caller(ae_title="BOUND", certificate=("CN=ct1,O=Clinic",)),
        Caller(ae_title="SECRET", credentials_env="CT1"),
        Caller(ae_title="NAMED", credentials_env="CT2"),
        Caller(ae_title="UNSET", credentials_env="CT3"),
    )
    tls = authority.issue().tls(client_ca=str(authority.certificate), client_certificates="optional")
    with Receiver(tmp_path / "spool", callers=callers, tls=tls) as running:
        yield running


def ask(receiver: Receiver, context: ssl.SSLContext, **what: Any) -> tuple[int, bytes]:
    """What a request inside TLS is answered with."""
    with (
        socket.create_connection(("127.0.0.1", receiver.tls_port), timeout=10) as sock,
        context.wrap_socket(sock, server_hostname="localhost") as tls,
    ):
        tls.sendall(associate_rq(**what))
        head = tls.recv(6)
        length, body = int.from_bytes(head[2:6], "big"), b""
        while len(body) < length:
            body += tls.recv(length - len(body))
        return head[0], body


def words(receiver: Receiver) -> list[str]:
    return [one["word"] for one in receiver.logged() if one["outcome"] == "rejected"]


def test_a_caller_is_bound_to_its_certificate(receiver: Receiver, authority: Authority, modality: Identity) -> None:
    with_it, without = client(authority, modality), client(authority)
    assert ask(receiver, with_it, calling=b"BOUND")[0] == AC
    assert ask(receiver, without, calling=b"BOUND") == (RJ, b"\0\1\1\3")
    assert ask(receiver, without, calling=b"OTHER")[0] == AC
    wait_until(lambda: len(receiver.logged()) == 3, "entries in the association log", 10.0)
    assert words(receiver) == ["certificate"]
    assert all(one["tls"] for one in receiver.logged())


@pytest.mark.parametrize(
    ("calling", "shown", "answer"),
    [
        (b"NAMED", identity(1, b"ct"), AC),
        (b"SECRET", identity(2, b"ct", "päss".encode()), AC),
        (b"NAMED", b"", RJ),
        (b"NAMED", identity(1, b"tc"), RJ),
        (b"SECRET", identity(2, b"ct", b"pass"), RJ),
        (b"SECRET", identity(5, b"ct"), RJ),
        (b"UNSET", b"", RJ),
        (b"UNSET", identity(1, b""), RJ),
        (b"NAMED", b"\x58\0\0\4\1\0\0\x09", ABORT),
    ],
)
def test_user_identity(receiver: Receiver, authority: Authority, calling: bytes, shown: bytes, answer: int) -> None:
    assert ask(receiver, client(authority), calling=calling, more=shown)[0] == answer
    assert "päss" not in "".join(map(str, receiver.lines()))


def test_a_positive_response_is_given_where_it_is_asked_for(receiver: Receiver, authority: Authority) -> None:
    empty = b"\x59\0\0\2\0\0"  # PS3.7 table D.3-15
    for wanted in (0, 1):
        kind, body = ask(receiver, client(authority), calling=b"NAMED", more=identity(1, b"ct", response=wanted))
        assert kind == AC
        assert (empty in body) == bool(wanted)


def test_dcmtk_shows_a_user_identity(receiver: Receiver, tmp_path: Path, authority: Authority) -> None:
    paths = write_mr_series(tmp_path / "mr", 2)
    tls = ["+tla", "+cf", str(authority.certificate), "-x=", "--user", "ct"]
    for password, accepted in (("päss", True), ("wrong", False)):
        sent = dcmtk.storescu(
            receiver.tls_port, paths, options=[*tls, "--password", password, "-rsp"], calling="SECRET"
        )
        assert (sent.returncode == 0) == accepted, sent.stdout
    assert len(receiver.objects()) == 2
