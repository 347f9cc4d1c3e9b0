"""What a DICOMweb destination is shown: Basic or a bearer token of ours, or an OAuth 2.0 access token that is renewed.

One per destination, shared by its workers. Secrets are read at each use, so a rotated file is seen. An access token
is got by the client credentials grant (RFC 6749 4.4), as Keycloak in front of a dcm4chee-arc wants it; it is kept until
shortly before its end, and thrown away when the destination answers 401. What fails there is `ConnectFailed`: nothing
was sent to the destination.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import urlencode

from relaypacs.config.model import Destination
from relaypacs.config.secrets import Credentials, credentials
from relaypacs.forward.http import ConnectFailed, ExchangeFailed, HttpPeer
from relaypacs.forward.tls import web_tls

_LONGEST_ANSWER_BYTES = 64 << 10
_LONGEST_TOKEN = 16 << 10
_USUAL_LIFE_SECONDS = 60.0
"""Of a token whose answer does not say (RFC 6749 5.1 recommends that it does)."""
_MARGIN = 0.2
_LONGEST_MARGIN_SECONDS = 30.0


class Authorization:
    """`shown` is asked before each request; `renew` after a 401. Thread-safe."""

    def __init__(
        self, destination: Destination, environment: Mapping[str, str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """ConfigError if the credentials are not there."""
        self._destination, self._environment, self._clock = destination, environment, clock
        self._lock = threading.Lock()
        self._token, self._good_until = "", 0.0
        credentials(destination, environment)  # what is missing is said at start, not at the first request

    def shown(self) -> Credentials:
        """What to show now. Raises ConfigError, and ConnectFailed if no token is to be had."""
        if not self._destination.token_url:
            return credentials(self._destination, self._environment)
        with self._lock:
            if not self._token or self._clock() >= self._good_until:
                self._token, life = self._fetch()
                self._good_until = self._clock() + life - min(life * _MARGIN, _LONGEST_MARGIN_SECONDS)
            return Credentials(token=self._token)

    def renew(self, refused: str) -> bool:
        """The token `refused` was answered with 401: whether another one may do."""
        if not self._destination.token_url:
            return False
        with self._lock:
            if self._token == refused:
                self._token = ""
            return True

    def _fetch(self) -> tuple[str, float]:
        """A new token and its life in seconds."""
        one = self._destination
        form = {"grant_type": "client_credentials"}
        if one.token_scope:
            form["scope"] = one.token_scope
        body = urlencode(form).encode()
        peer = HttpPeer(
            one.token_url,
            lambda: credentials(one, self._environment),
            connect_timeout_seconds=one.connect_timeout_seconds,
            response_timeout_seconds=min(one.response_timeout_seconds, 30.0),
            tls=web_tls(one),
        )

        def pieces() -> Iterator[bytes]:
            yield body

        try:
            answer = peer.request(
                "POST",
                "",
                headers={
                    "Content-Type": "application/x-www-form-urlencoded",
                    "Content-Length": str(len(body)),
                    "Accept": "application/json",
                },
                body=pieces,
                limit_bytes=_LONGEST_ANSWER_BYTES,
            )
        except (ConnectFailed, ExchangeFailed) as problem:
            raise ConnectFailed(f"no access token from `token_url`: {problem}") from None
        finally:
            peer.close()
        if answer.status in (400, 401, 403):
            raise ConnectFailed(
                f"`token_url` refuses our client ({answer.status}): correct `credentials_env` = {one.credentials_env}, "
                "its grant or `token_scope`"
            )
        found = _token(answer.body) if answer.status == 200 else None
        if found is None:
            raise ConnectFailed(f"`token_url` gives no access token (HTTP {answer.status}): is it the token endpoint?")
        return found


def _token(body: bytes | None) -> tuple[str, float] | None:
    """The token of an answer (RFC 6749 5.1) and its life in seconds, or None if it is none that can be shown."""
    try:
        found = json.loads(body or b"")
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    token, kind, life = found.get("access_token"), found.get("token_type", "bearer"), found.get("expires_in")
    if not isinstance(token, str) or not isinstance(kind, str) or kind.lower() != "bearer":
        return None
    if (
        not token
        or len(token) > _LONGEST_TOKEN
        or not token.isascii()
        or set(token) & set(" \r\n")
        or not token.isprintable()
    ):
        return None
    good = isinstance(life, int | float) and not isinstance(life, bool) and 0 < life < 1e9
    return token, float(life) if good and life is not None else _USUAL_LIFE_SECONDS
