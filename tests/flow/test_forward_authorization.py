"""What a DICOMweb destination is shown: OAuth 2.0 client credentials with renewal, a rotated token file, certificates.

`Realm` is a stand-in for Keycloak: its token endpoint as RFC 6749 and Keycloak's documentation have it.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from relaypacs.config.model import Destination
from relaypacs.forward.authorization import Authorization
from relaypacs.forward.echo import echo
from relaypacs.forward.sender import Trouble
from relaypacs.forward.stow import StowSender
from relaypacs.model import Delivered
from tests.peers.pki import Authority
from tests.peers.ports import free_port
from tests.unit.forward.deliveries import Deliveries
from tests.unit.forward.webpeer import Reply, Request, WebPeer, module

SECRETS = {"ARC_USERNAME": "relay", "ARC_PASSWORD": "s3cret"}


class Realm:
    """A stand-in for Keycloak. Tokens are numbered; `good` are those the archive takes."""

    def __init__(self, life: object = 300, reply: tuple[int, bytes] | None = None) -> None:
        self.asked: list[tuple[str, str]] = []
        self.good: set[str] = set()
        realm = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                realm.asked.append((self.headers.get("Authorization", ""), body))
                token = f"token-{len(realm.asked)}"
                realm.good = {f"Bearer {token}"}
                answer = {"access_token": token, "token_type": "Bearer", "expires_in": life, "scope": "email"}
                status, content = reply or (200, json.dumps(answer).encode())
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "http://127.0.0.1:1/")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/realms/dcm4che/protocol/openid-connect/token"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def archive(self, request: Request) -> Reply:
        """A stand-in for the archive behind it."""
        allowed = request.headers.get("Authorization") in self.good
        return Reply(200, module(request.uids)) if allowed else Reply(401)

    def archive_searched(self, request: Request) -> Reply:
        """The same, searched: nothing matches."""
        return Reply(204) if request.headers.get("Authorization") in self.good else Reply(401)

    def __enter__(self) -> Realm:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def destination(url: str, **settings: Any) -> Destination:
    values = {"connect_timeout_seconds": 2, "response_timeout_seconds": 3, **settings}
    return Destination(name="arc", kind="dicomweb", url=url, **values)


def deliver(sender: StowSender, count: int = 1) -> Trouble | None:
    deliveries = Deliveries()
    for _ in range(count):
        deliveries.add_new()
    trouble = deliveries.deliver(sender)
    assert trouble is not None or set(deliveries.outcomes.values()) == {Delivered(0)}
    return trouble


def sender_with(one: Destination, clock: Callable[[], float] | None = None) -> StowSender:
    more = {} if clock is None else {"clock": clock}
    authorization = Authorization(one, SECRETS, **more)
    return StowSender(one, authorization.shown, authorization.renew)


def test_a_token_is_got_once_kept_and_renewed_before_its_end() -> None:
    now = [1000.0]
    with Realm(life=300) as realm, WebPeer(realm.archive) as archive:
        one = destination(archive.url, credentials_env="ARC", token_url=realm.url, token_scope="dicom")
        sender = sender_with(one, lambda: now[0])
        for _ in range(3):
            assert deliver(sender) is None
        assert len(realm.asked) == 1
        shown, body = realm.asked[0]
        assert shown == "Basic " + base64.b64encode(b"relay:s3cret").decode()
        assert body == "grant_type=client_credentials&scope=dicom"
        now[0] += 269
        assert deliver(sender) is None
        assert len(realm.asked) == 1
        now[0] += 2
        assert deliver(sender) is None
        assert len(realm.asked) == 2


def test_a_token_that_is_refused_is_renewed_at_once_and_no_attempt_is_lost() -> None:
    with Realm() as realm, WebPeer(realm.archive) as archive:
        sender = sender_with(destination(archive.url, credentials_env="ARC", token_url=realm.url))
        assert deliver(sender, 3) is None
        realm.good = set()  # the archive was restarted, say
        assert deliver(sender, 3) is None
        assert len(realm.asked) == 2


def test_a_new_token_that_is_refused_too_is_the_destinations_trouble() -> None:
    with Realm() as realm, WebPeer(lambda _: Reply(401)) as archive:
        trouble = deliver(sender_with(destination(archive.url, credentials_env="ARC", token_url=realm.url)))
        assert trouble is not None
        assert "does not accept our credentials (401" in trouble.reason
        assert len(realm.asked) == 2


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        ((401, b'{"error":"invalid_client"}'), "refuses our client (401)"),
        ((400, b"{}"), "refuses our client (400)"),
        ((302, b""), "no access token (HTTP 302)"),
        ((500, b""), "no access token (HTTP 500)"),
        ((200, b"<html>"), "no access token (HTTP 200)"),
        ((200, b'{"access_token": "a b"}'), "no access token"),
        ((200, b'{"access_token": "a", "token_type": "mac"}'), "no access token"),
        ((200, b'{"access_token": "' + b"a" * 70000 + b'"}'), "no access token"),
        ((200, b"[" * 60000), "no access token"),
    ],
)
def test_what_is_no_token_is_said_and_nothing_is_sent(reply: tuple[int, bytes], says: str) -> None:
    with Realm(reply=reply) as realm, WebPeer(realm.archive) as archive:
        trouble = deliver(sender_with(destination(archive.url, credentials_env="ARC", token_url=realm.url)))
        assert trouble is not None
        assert trouble.opening
        assert says in trouble.reason
        assert "s3cret" not in trouble.reason
        assert archive.requests == []


def test_a_realm_that_is_down_is_said() -> None:
    url = f"http://127.0.0.1:{free_port()}/token"
    trouble = deliver(sender_with(destination("http://127.0.0.1:1/rs", credentials_env="ARC", token_url=url)))
    assert trouble is not None
    assert trouble.reason.startswith("no access token from `token_url`: destination can't be reached, nothing listens")


def test_echo_shows_a_token_too() -> None:
    with Realm() as realm, WebPeer(realm.archive) as archive:
        one = destination(archive.url, credentials_env="ARC", token_url=realm.url)
        assert echo(one, calling_ae="X", environment=SECRETS).ok


def test_a_rotated_token_file_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    with WebPeer(lambda request: Reply(200, module(request.uids))) as archive:
        one = destination(archive.url, credentials_env="ARC")
        authorization = Authorization(one, {"ARC_TOKEN_FILE": str(file)})
        sender = StowSender(one, authorization.shown, authorization.renew)
        assert deliver(sender) is None
        file.write_text("second\n")
        assert deliver(sender) is None
        assert [one.headers["Authorization"] for one in archive.requests] == ["Bearer first", "Bearer second"]


@contextmanager
def tls_proxy(peer: WebPeer, context: ssl.SSLContext) -> Iterator[str]:
    """The same peer behind TLS."""
    peer._server.socket = context.wrap_socket(peer._server.socket, server_side=True)
    with peer:
        yield peer.url.replace("http:", "https:")


def test_a_ca_of_our_own_and_a_client_certificate(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "ca"), Authority(tmp_path / "other", "Other CA")
    server, ours = authority.issue(), authority.issue("/CN=relaypacs")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.certificate))
    context.load_cert_chain(server.certificate, server.key)
    context.verify_mode = ssl.CERT_REQUIRED
    shown = {"tls_certificate": str(ours.certificate), "tls_key": str(ours.key)}
    with tls_proxy(WebPeer(lambda request: Reply(200, module(request.uids))), context) as url:
        assert deliver(sender_with(destination(url, tls_ca=str(authority.certificate), **shown))) is None
        untrusted = deliver(sender_with(destination(url, tls_ca=str(other.certificate), **shown)))
        assert untrusted is not None
        assert "certificate can't be verified" in untrusted.reason
        nameless = deliver(sender_with(destination(url, tls_ca=str(authority.certificate))))
        assert nameless is not None
        missing = deliver(sender_with(destination(url, tls_ca=str(tmp_path / "none.pem"))))
        assert missing is not None
        assert missing.opening


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"token_url": "http://kc/token"}, "needs `credentials_env`"),
        ({"token_scope": "x"}, "needs `token_url`"),
        ({"token_url": "ftp://kc", "credentials_env": "ARC"}, "token_url"),
        ({"tls_ca": "/ca.pem"}, "https"),
        ({"tls_key": "/key.pem"}, "needs `tls_certificate`"),
    ],
)
def test_options_that_do_not_fit(settings: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        destination("http://arc/rs", **settings)
