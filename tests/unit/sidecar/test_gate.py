"""Who may ask the sidecar: the token, the share of an address, no bodies, HTTPS with a certificate that is renewed."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import ssl
from pathlib import Path

import pytest
from starlette.types import Message, Scope

from relaypacs.config.sidecar import Sidecar
from relaypacs.sidecar.app import Check
from relaypacs.sidecar.gate import Gate
from relaypacs.sidecar.https import Https
from tests.peers.pki import Authority
from tests.unit.sidecar.test_app import ask, serving

TOKEN = "f3b1c2d4e5f60718293a4b5c"


def test_metrics_and_reasons_are_for_those_who_show_the_token() -> None:
    shown = {"Authorization": f"Bearer {TOKEN}"}
    with serving({"job_table": lambda: Check(False, "db.example is down")}, token=TOKEN) as port:
        for wrong in ({}, {"Authorization": f"Basic {TOKEN}"}, {"Authorization": f"Bearer {TOKEN[:-1]}"}):
            status, headers, body = ask(port, "/metrics", **wrong)
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
            assert TOKEN not in body.decode()
            status, _, body = ask(port, "/readyz", **wrong)
            assert (status, json.loads(body)) == (503, {"status": "not ready"})
            assert ask(port, "/other", **wrong)[0] == 401
        assert ask(port, "/healthz")[0] == 200
        assert ask(port, "/metrics", **shown)[0] == 200
        assert "db.example is down" in ask(port, "/readyz", **shown)[2].decode()


def test_a_request_with_a_body_ends_its_connection() -> None:
    with serving() as port, socket.create_connection(("127.0.0.1", port), 5) as asking:
        asking.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\nabc")
        answer = b""
        while piece := asking.recv(4096):
            answer += piece
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert ask(port, "/healthz")[0] == 200


class _Answers:
    """Asks a gate as uvicorn does, from an address of one's choice, at a time of one's choice."""

    def __init__(self, per_minute: int) -> None:
        self.now = 0.0

        async def app(scope: Scope, receive: object, send: object) -> None:
            scope["passed"] = True

        self.gate = Gate(app, "", per_minute, clock=lambda: self.now)

    def ask(self, host: str) -> int:
        scope: Scope = {"type": "http", "path": "/metrics", "headers": [], "client": (host, 1)}
        told: list[Message] = []

        async def receive() -> Message:
            return {}

        async def send(message: Message) -> None:
            told.append(message)

        asyncio.run(self.gate(scope, receive, send))
        return int(told[0]["status"]) if told else 200


def test_each_address_has_its_share_of_a_minute() -> None:
    sidecar = _Answers(per_minute=10)
    assert [sidecar.ask("10.0.0.9") for _ in range(12)] == [200] * 10 + [429] * 2
    assert sidecar.ask("10.0.0.10") == 200
    assert sidecar.ask("::ffff:10.0.0.9") == 429
    assert [sidecar.ask("127.0.0.1") for _ in range(30)] == [200] * 30
    assert [sidecar.ask(f"2001:db8::{number}") for number in range(12)] == [200] * 10 + [429] * 2, "one /64"
    sidecar.now = 6.1
    assert [sidecar.ask("10.0.0.9") for _ in range(2)] == [200, 429]
    for number in range(20_000):
        sidecar.ask(f"10.1.{number // 250}.{number % 250}")
    assert len(sidecar.gate._due) <= 4096
    assert _Answers(per_minute=0).ask("10.0.0.9") == 200


def _get(port: int, ca: Path) -> tuple[http.client.HTTPMessage, dict[str, object]]:
    context = ssl.create_default_context(cafile=str(ca))
    connection = http.client.HTTPSConnection("localhost", port, timeout=10, context=context)
    connection.request("GET", "/healthz")
    assert isinstance(connection.sock, ssl.SSLSocket)
    shown = connection.sock.getpeercert() or {}
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.headers, shown


@pytest.mark.parametrize("renewed", ["good", "broken"])
def test_https_says_so_and_takes_a_renewed_certificate(tmp_path: Path, renewed: str) -> None:
    authority = Authority(tmp_path / "ca")
    first, second = authority.issue(), authority.issue()
    place = tmp_path / "sidecar.pem"
    place.write_text(first.certificate.read_text() + first.key.read_text())
    https = Https(Sidecar(certificate=str(place)))
    with serving(tls=https.context) as port:
        headers, shown = _get(port, authority.certificate)
        assert 19 * 86400 < https.expires_in() < 21 * 86400
        assert headers["strict-transport-security"] == "max-age=31536000; includeSubDomains"
        text = second.certificate.read_text() + second.key.read_text() if renewed == "good" else "no certificate"
        place.with_suffix(".new").write_text(text)
        os.replace(place.with_suffix(".new"), place)
        https.look()
        assert (_get(port, authority.certificate)[1]["serialNumber"] != shown["serialNumber"]) == (renewed == "good")
    with serving() as port:
        assert ask(port, "/healthz")[1]["strict-transport-security"] is None
