"""The sidecar's answers, over a real socket and uvicorn: statuses, bodies, limits, and that it stops when told."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import pytest
from prometheus_client import REGISTRY

from relaypacs.node.supervisor import Stop
from relaypacs.sidecar import server
from relaypacs.sidecar.app import Check, make_app

Checks = Mapping[str, Callable[[], Check]]
GOOD: Checks = {"spool": lambda: Check(True, "12 GB free")}


@contextmanager
def serving(
    checks: Checks = GOOD,
    protocol: type[server.BoundedHttp] = server.BoundedHttp,
    *,
    token: str = "",
    tls: ssl.SSLContext | None = None,
) -> Iterator[int]:
    """A sidecar on a free port in a thread; gives the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    stop = Stop()
    app = make_app(checks, REGISTRY, token=token)
    thread = threading.Thread(
        target=server.serve, args=(app, listener, stop, protocol), kwargs={"tls": tls}, daemon=True
    )
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive(), "it must stop when it is told to"


def ask(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers, body


def test_health_does_not_depend_on_anything() -> None:
    with serving({"job_table": lambda: Check(False, "down")}) as port:
        status, headers, body = ask(port, "/healthz")
    assert (status, json.loads(body)) == (200, {"status": "ok"})
    assert headers["date"].endswith("GMT")
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers


def test_ready_when_all_that_is_needed_is_well() -> None:
    checks = {**GOOD, "destination/pacs": lambda: Check(False, "3 waiting, 3 of them deferred", needed=False)}
    with serving(checks) as port:
        status, _, body = ask(port, "/readyz")
    assert status == 200
    assert json.loads(body) == {
        "status": "ready",
        "checks": {
            "spool": {"ok": True, "needed": True, "reason": "12 GB free"},
            "destination/pacs": {"ok": False, "needed": False, "reason": "3 waiting, 3 of them deferred"},
        },
    }


def test_not_ready_names_what_is_down_even_if_a_check_hangs_or_breaks(capsys: pytest.CaptureFixture[str]) -> None:
    release = threading.Event()

    def hangs() -> Check:
        release.wait(30)
        return Check(True, "late")

    def breaks() -> Check:
        raise RuntimeError("postgresql://user:secret@host/db is not there")

    with serving({**GOOD, "job_table": hangs, "staging": breaks}) as port:
        began = time.monotonic()
        status, _, body = ask(port, "/readyz")
        took = time.monotonic() - began
        again = time.monotonic()
        ask(port, "/readyz")
        assert time.monotonic() - again < 1, "a check known to hang is not waited for again"
        assert ask(port, "/healthz")[0] == 200
        release.set()
    checks = json.loads(body)["checks"]
    assert status == 503
    assert took < 4
    assert checks["spool"]["ok"]
    assert checks["job_table"] == {"ok": False, "needed": True, "reason": "no answer for 2 s"}
    assert checks["staging"]["reason"] == "the check itself failed (RuntimeError)"
    assert "secret" not in body.decode() + capsys.readouterr().err


def test_a_check_that_recovers_makes_the_node_ready_again() -> None:
    answers = iter([Check(False, "down"), Check(True, "up")])
    with serving({"job_table": lambda: next(answers)}) as port:
        assert ask(port, "/readyz")[0] == 503
        time.sleep(0.6)
        assert ask(port, "/readyz")[0] == 200


def test_metrics_are_text_or_openmetrics_and_pass_promtool() -> None:
    with serving() as port:
        ask(port, "/healthz")
        status, headers, body = ask(port, "/metrics")
        _, open_headers, open_body = ask(port, "/metrics", accept="application/openmetrics-text; version=1.0.0")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=")
    assert b'http_requests_total{method="GET",path="/healthz",status="200"}' in body
    assert open_headers["content-type"].startswith("application/openmetrics-text")
    assert open_body.endswith(b"# EOF\n")
    if promtool := shutil.which("promtool"):
        ours = b"".join(line + b"\n" for line in body.splitlines() if b"http_re" in line)
        check = subprocess.run([promtool, "check", "metrics"], input=ours, capture_output=True, timeout=30)
        assert (check.returncode, check.stdout + check.stderr) == (0, b"")


def test_hostile_paths_and_methods_are_refused_in_json_and_make_no_labels() -> None:
    with serving() as port:
        status, _, body = ask(port, "/..%2f..%2fetc/passwd?x=%0aforged")
        assert status == 404
        assert set(json.loads(body)) == {"error"}
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "BREW"):
            status, headers, body = ask(port, "/metrics", method)
            assert (status, set(headers["allow"].split(", "))) == (405, {"GET", "HEAD"})
            assert json.loads(body) == {"error": "only GET and HEAD are answered here"}
        status, headers, body = ask(port, "/healthz", "HEAD")
        assert (status, body, headers["content-length"]) == (200, b"", "15")
        metrics = ask(port, "/metrics")[2].decode()
    assert "passwd" not in metrics
    assert "BREW" not in metrics
    assert 'http_requests_total{method="other",path="/metrics",status="405"}' in metrics
    assert 'http_requests_total{method="GET",path="other",status="404"}' in metrics


def test_a_head_too_long_or_no_http_at_all_is_a_400_and_nothing_is_logged(capfd: pytest.CaptureFixture[str]) -> None:
    with serving() as port:
        for sent in (b"GET / HTTP/1.1\r\nx: " + b"y" * 40_000, b"\x01\x00\x00\x00\x00\xcd\x00\x01 DICOM?\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
                raw.sendall(sent)
                assert raw.recv(100).startswith(b"HTTP/1.1 400")
        assert ask(port, "/healthz")[0] == 200
    assert capfd.readouterr().err == ""


class Impatient(server.BoundedHttp):
    """The same deadlines, short enough for a test."""

    request_seconds = 0.5


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /hea",
        b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\nGET /he",
        b"GET /healthz HTTP/1.1\r\nhost: a\r\ncontent-length: 4000000000\r\n\r\nabc",
    ],
    ids=["silent", "half a head", "half a second request", "a body that never ends"],
)
def test_a_client_that_stops_talking_is_given_up(sent: bytes) -> None:
    with serving(GOOD, Impatient) as port, socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        raw.sendall(sent)
        if b"\r\n\r\n" in sent:
            assert raw.recv(10_000)[:12] in (b"HTTP/1.1 200", b"HTTP/1.1 413")
            raw.sendall(b"x")
        raw.settimeout(3)
        try:
            while raw.recv(10_000):
                pass
        except ConnectionResetError:
            pass  # TimeoutError would mean that it still waits


REQUEST = b"GET /%b HTTP/1.1\r\nhost: a\r\n\r\n"


def is_answered(raw: socket.socket) -> bool:
    raw.sendall(REQUEST % b"healthz")
    received = b""
    while not received.endswith(b"}") and (more := raw.recv(1000)):
        received += more
    return received.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("asked", [False, True], ids=["silent", "kept open"])
def test_who_asks_nothing_gives_way(asked: bool) -> None:
    with serving() as port, ExitStack() as stack:
        idle = []
        for _ in range(3 * server.MAX_CONNECTIONS):
            raw = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            idle.append(raw)
            assert not asked or is_answered(raw)
        assert ask(port, "/healthz")[0] == 200
        assert all(is_answered(raw) for raw in idle[-server.MAX_CONNECTIONS // 2 :]), "the oldest went, not the young"


def test_more_requests_than_allowed_get_503_and_leave_no_trace() -> None:
    let_go = threading.Event()

    def hangs() -> Check:
        let_go.wait(10)
        return Check(True, "")

    with serving({"slow": hangs}) as port:
        busy = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(server.MAX_CONNECTIONS - 1)]
        for raw in busy:
            raw.sendall(REQUEST % b"readyz")
        try:
            time.sleep(0.2)
            assert ask(port, "/healthz")[0] == 503
        finally:
            let_go.set()
        for raw in busy:
            raw.recv(1000)
            raw.close()
        time.sleep(0.2)
        assert ask(port, "/healthz")[0] == 200


def test_no_redirect_repeats_a_host() -> None:
    with serving() as port:
        status, headers, body = ask(port, "/healthz/", Host="evil.example")
    assert status == 404
    assert "evil" not in f"{headers}{body.decode()}"


_PROGRAM = """
import signal, socket
from prometheus_client import REGISTRY
from relaypacs.node.supervisor import Stop
from relaypacs.sidecar.app import make_app
from relaypacs.sidecar.server import serve
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
stop = Stop()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
signal.signal(signal.SIGINT, signal.SIG_IGN)
serve(make_app({}, REGISTRY), listener, stop)
print("stopped", flush=True)
"""


@pytest.fixture
def alone() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A sidecar in a process of its own, and its port."""
    with subprocess.Popen([sys.executable, "-c", _PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        assert ask(port, "/healthz")[0] == 200
        yield process, port
        process.kill()


def test_the_signals_of_its_process_are_left_alone(alone: tuple[subprocess.Popen[str], int]) -> None:
    process, port = alone
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert ask(port, "/healthz")[0] == 200, "a terminal's Ctrl-C is the supervisor's to decide"
    with socket.create_connection(("127.0.0.1", port)) as idle:
        idle.sendall(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
        assert idle.recv(1000).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
        assert time.monotonic() - began < 1.5
    assert process.stdout is not None
    assert process.stdout.read() == "stopped\n"


def test_an_idle_sidecar_sleeps(alone: tuple[subprocess.Popen[str], int]) -> None:
    process, _ = alone

    def waits_and_ticks() -> tuple[int, int]:
        with open(f"/proc/{process.pid}/status") as status:
            switches = next(int(line.split()[1]) for line in status if line.startswith("voluntary"))
        with open(f"/proc/{process.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return switches, int(fields[11]) + int(fields[12])

    time.sleep(0.3)
    before = waits_and_ticks()
    time.sleep(3)
    after = waits_and_ticks()
    assert after[0] - before[0] <= 2, "it wakes although nothing happens"
    assert after[1] == before[1]
