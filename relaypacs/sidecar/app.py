"""The sidecar's HTTP application: `/healthz`, `/readyz`, `/metrics`.

Made by `process.run`. It answers always and soon: what a check asks may hang, the answer then says so. Refusals and
errors are JSON. Nothing a client sends is echoed, logged or made a label.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from relaypacs import log
from relaypacs.sidecar.gate import TRUSTED, Gate
from relaypacs.sidecar.probe import NoAnswer, Probe

CHECK_DEADLINE_SECONDS = 2.0
"""How long `/readyz` waits for a check; kubelet's and most load balancers' probes give up between 1 and 5 s."""
CHECK_FRESH_SECONDS = 0.5
"""How long a check's answer is given again: bounds what frequent probes cost."""

_HSTS = b"max-age=31536000; includeSubDomains"  # RFC 6797
_PATHS = ("/healthz", "/readyz", "/metrics")
_REQUESTS = Counter(
    "http_requests_total", "Requests answered by the sidecar, by method, path and status.", ["method", "path", "status"]
)
_DURATION = Histogram(
    "http_request_duration_seconds", "Time the sidecar took to answer, in seconds.", ["method", "path"]
)
_IN_PROGRESS = Gauge("http_requests_in_progress", "Requests the sidecar is answering now.", multiprocess_mode="livesum")


@dataclass(frozen=True, slots=True)
class Check:
    """How a dependency is. Without a `needed` one the node is not ready; `reason` is a sentence for people."""

    ok: bool
    reason: str
    needed: bool = True


def make_app(
    checks: Mapping[str, Callable[[], Check]],
    registry: CollectorRegistry,
    *,
    token: str = "",
    requests_per_minute: int = 0,
) -> Starlette:
    """The application. `checks` by the name `/readyz` shows them under; each is called in a thread, one at a time.

    A check that raises or doesn't return within `CHECK_DEADLINE_SECONDS` counts as needed and not ok.
    `token`, `requests_per_minute`: as `gate.Gate` takes them.
    """
    readiness = Readiness(checks)

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    def readyz(request: Request) -> Response:
        ready, answers = readiness.look()
        body: dict[str, object] = {"status": "ready" if ready else "not ready"}
        if request.scope[TRUSTED]:
            body["checks"] = {
                name: {"ok": check.ok, "needed": check.needed, "reason": check.reason}
                for name, check in answers.items()
            }
        return JSONResponse(body, status_code=200 if ready else 503)

    def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    app = Starlette(
        routes=[Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)],
        middleware=[Middleware(_Watched), Middleware(Gate, token=token, requests_per_minute=requests_per_minute)],
        exception_handlers={HTTPException: _refusal},
    )
    app.router.redirect_slashes = False  # a redirect would repeat the client's Host
    return app


class Readiness:
    """The checks, asked together; safe to use from several threads."""

    def __init__(self, checks: Mapping[str, Callable[[], Check]]) -> None:
        self._probes = {
            name: Probe(ask, deadline_seconds=CHECK_DEADLINE_SECONDS, fresh_seconds=CHECK_FRESH_SECONDS)
            for name, ask in checks.items()
        }

    def look(self) -> tuple[bool, dict[str, Check]]:
        """Whether the node is ready, and every check's answer; at most `CHECK_DEADLINE_SECONDS` later."""
        for probe in self._probes.values():
            probe.start()
        answers = {name: _answer(probe) for name, probe in self._probes.items()}
        return all(check.ok or not check.needed for check in answers.values()), answers


def where_failed(error: BaseException) -> str:
    """The kind of error and the line it came from; never its text, which may quote rows or a URL's password."""
    frame = error.__traceback__
    while frame and frame.tb_next:
        frame = frame.tb_next
    place = f" at {Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}" if frame else ""
    return type(error).__name__ + place


def _answer(probe: Probe[Check]) -> Check:
    try:
        return probe.answer()
    except NoAnswer as late:
        return Check(False, str(late))
    except Exception as error:
        log.event(
            log.ERROR, "readiness-check-failed", "A readiness check ended in an error.", error=where_failed(error)
        )
        return Check(False, f"the check itself failed ({type(error).__name__})")


def _refusal(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    says = {404: f"not found; there is {', '.join(_PATHS)}", 405: "only GET and HEAD are answered here"}
    return JSONResponse(
        {"error": says.get(error.status_code, error.detail)}, status_code=error.status_code, headers=error.headers
    )


class _Watched:
    """Counts and times requests, dates answers (RFC 9110 6.6.1), and turns an unexpected error into a JSON 500."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in ("GET", "HEAD") else "other"
        path = scope["path"] if scope["path"] in _PATHS else "other"
        started, status = time.perf_counter(), 0

        async def send_dated(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] += [
                    (b"date", formatdate(usegmt=True).encode()),
                    (b"cache-control", b"no-store"),
                    (b"x-content-type-options", b"nosniff"),
                ]
                if scope["scheme"] == "https":
                    message["headers"].append((b"strict-transport-security", _HSTS))
            await send(message)

        _IN_PROGRESS.inc()
        try:
            await self._app(scope, receive, send_dated)
        except Exception as error:
            log.event(
                log.ERROR, "sidecar-request-failed", "A request to the sidecar failed.", error=where_failed(error)
            )
            if status:
                raise  # the answer has begun: all that is left is to cut it off
            await JSONResponse({"error": "internal error; see the node's log"}, status_code=500)(
                scope, receive, send_dated
            )
        finally:
            _IN_PROGRESS.dec()
            seconds = time.perf_counter() - started
            _DURATION.labels(method, path).observe(seconds)
            _REQUESTS.labels(method, path, str(status)).inc()
            log.event(
                log.DEBUG,
                "sidecar-request",
                "The sidecar answered a request.",
                method=method,
                path=path,
                status=status,
                latency_ms=seconds * 1000,
            )
