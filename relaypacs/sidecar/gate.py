"""Who may ask the sidecar, how often and how much: in front of the application, so a refusal costs next to nothing.

An address has its share of requests (429), a request no body (413), `/metrics` its bearer token (401). Health checks
are answered without one, for load balancers and kubelets show none; the reasons are for those who do. This machine's
own requests are not counted. Bounded: of too many addresses the oldest are forgotten.
"""

from __future__ import annotations

import hmac
import ipaddress
import time
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

TRUSTED = "relaypacs.trusted"
"""In a request's scope: whether it showed what is asked for."""
_MINUTE_SECONDS = 60.0
_MOST_ADDRESSES = 4096
_BEARER = "bearer "


class Gate:
    """ASGI middleware. `token`: empty asks for none; `requests_per_minute`: 0 is no limit."""

    def __init__(
        self, app: ASGIApp, token: str, requests_per_minute: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._app, self._token, self._per_minute, self._clock = app, token, requests_per_minute, clock
        self._due: dict[str, float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._too_many(scope) or _too_long(headers)
        if refusal is None:
            scope[TRUSTED] = not self._token or self._shown(headers)
            if not scope[TRUSTED] and scope["path"] not in ("/healthz", "/readyz"):
                refusal = JSONResponse(
                    {"error": "show [sidecar] token: Authorization: Bearer TOKEN"},
                    status_code=401,
                    headers={"www-authenticate": "Bearer"},
                )
        await (refusal or self._app)(scope, receive, send)

    def _too_many(self, scope: Scope) -> JSONResponse | None:
        """A minute's worth at once, then evenly: the generic cell rate algorithm (ITU-T I.371)."""
        address = _counted(scope["client"][0] if scope.get("client") else "")
        if not self._per_minute or not address:
            return None
        now = self._clock()
        due = max(now, self._due.pop(address, now)) + _MINUTE_SECONDS / self._per_minute
        wait = due - now - _MINUTE_SECONDS
        if wait > 1e-9:
            self._due[address] = due - _MINUTE_SECONDS / self._per_minute
            return JSONResponse(
                {"error": "too many requests: [sidecar] max_requests_per_minute"},
                status_code=429,
                headers={"retry-after": str(int(wait) + 1)},
            )
        self._due[address] = due
        while len(self._due) > _MOST_ADDRESSES:
            self._due.pop(next(iter(self._due)))
        return None

    def _shown(self, headers: Headers) -> bool:
        said = headers.get("authorization", "")
        if said[: len(_BEARER)].lower() != _BEARER:
            return False
        return hmac.compare_digest(said[len(_BEARER) :].strip().encode("utf-8", "replace"), self._token.encode())


def _too_long(headers: Headers) -> JSONResponse | None:
    """Nothing here takes a body, so none is read: the connection ends."""
    if headers.get("content-length", "0").strip() == "0" and "transfer-encoding" not in headers:
        return None
    return JSONResponse({"error": "no request here has a body"}, status_code=413, headers={"connection": "close"})


def _counted(host: str) -> str:
    """What counts as one client; nothing for this machine itself."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return "" if address.is_loopback else address.packed[:8].hex()
        address = address.ipv4_mapped
    return "" if address.is_loopback else str(address)
