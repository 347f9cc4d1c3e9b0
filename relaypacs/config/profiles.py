"""What each profile asks of a configuration: production and dr refuse what is not fit for patients' data.

`load` asks `refusals` of a configuration whose profile is strict, `cross.warnings` of one that is to become so
(staging). Pure, but for the secret files that variables name.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from relaypacs.config.model import Caller, Destination, Jobs, Node, Receive, Redis, Sidecar, Staging
from relaypacs.config.options import endpoint
from relaypacs.config.places import Location, Problem
from relaypacs.config.secrets import caller_credentials, credentials, read_variable, storage_keys
from relaypacs.errors import ConfigError

STRICT = frozenset({"production", "dr"})
_PLACES = frozenset({"receive", "sidecar", "jobs", "redis", "staging"})
_LEAST_SECRET = 12
_USUAL = (
    "admin", "change", "default", "demo", "example", "guest", "letme", "minio", "orthanc", "pacs", "passwd", "password",
    "postgres", "qwerty", "redis", "relaypacs", "root", "secret", "test", "user",
)  # fmt: skip
_ENCRYPTED = frozenset({"require", "verify-ca", "verify-full"})  # libpq sslmode


def refusals(good: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[Problem]:
    """What a strict profile refuses, one sentence each. `good` as `problems.validate` returns it."""
    node: Node | None = good["node"]
    if node is None:
        return
    allowed = frozenset(node.allow_plaintext)
    if good["log"] is not None and good["log"].level == "debug":
        yield Problem(("log", "level"), "debug is not for production: write info")
    yield from _reception(good["receive"], allowed)
    for number, destination in enumerate(good["destination"]):
        if destination is not None:
            yield from _destination(destination, ("destination", number), allowed, environ)
    for number, caller in enumerate(good["caller"]):
        if caller is not None:
            yield from _caller(caller, ("caller", number), environ)
    yield from _sidecar(good["sidecar"], allowed)
    yield from _staging(good["staging"], allowed, environ)
    yield from _jobs(good["jobs"], allowed)
    yield from _redis(good["redis"], allowed)
    try:
        key = read_variable("RELAYPACS_HASH_KEY", environ)
    except ValueError:
        key = ""  # `serve` says so
    if key and (why := weakness(key)):
        yield Problem(("node",), f"RELAYPACS_HASH_KEY {why}")


def unknown_exceptions(good: Mapping[str, Any], destinations: Iterable[str]) -> Iterator[Problem]:
    """Names in `allow_plaintext` that are nothing."""
    known = {*_PLACES, *destinations}
    for number, name in enumerate(good["node"].allow_plaintext if good["node"] is not None else ()):
        if name not in known:
            yield Problem(
                ("node", "allow_plaintext", number), f"{name[:64]!r} is nothing; there are {', '.join(sorted(known))}"
            )


def weakness(secret: str, name: str = "") -> str:
    """Why a secret is easily guessed, or nothing. `name` is the user's, which the secret must not hold."""
    plain = secret.lower().strip("0123456789!.-_*#$ ")
    words = {*_USUAL, name.lower()} - {""}
    rest = plain
    for word in sorted(words, key=len, reverse=True):
        rest = rest.replace(word, "")
    if len(rest) <= 2:  # `minioadmin`, `changeme`, `orthanc1`: nothing but usual words
        return "is a default or usual password; make a random one, such as `openssl rand -hex 24`"
    if len(secret) < _LEAST_SECRET or len(set(secret)) < _LEAST_SECRET // 2:
        return f"is shorter than {_LEAST_SECRET} characters, or of too few; make a random one"
    return ""


def _reception(receive: Receive | None, allowed: frozenset[str]) -> Iterator[Problem]:
    if receive is None:
        return
    hosts = [receive.host, *(endpoint(one)[0] for one in receive.also_listen)]
    if receive.plain and "receive" not in allowed and not all(map(is_loopback, hosts)):
        yield Problem(
            ("receive", "plain"),
            'listens without TLS: give [tls] listen and plain = false, or name "receive" in [node] allow_plaintext',
        )
    if receive.ack == "buffered":
        yield Problem(("receive", "ack"), "buffered loses acknowledged objects: write spooled")


def _destination(
    one: Destination, at: Location, allowed: frozenset[str], environ: Mapping[str, str]
) -> Iterator[Problem]:
    if one.name not in allowed:
        mend = f'or name "{one.name}" in [node] allow_plaintext'
        if one.kind == "dimse" and not one.tls and not is_loopback(one.host):
            yield Problem((*at, "tls"), f"is sent to without TLS: write tls = true, {mend}")
        for option, url in (("url", one.url), ("token_url", one.token_url)):
            if one.kind == "dicomweb" and _is_plain(url, "http"):
                yield Problem((*at, option), f"is not encrypted: write https, {mend}")
    try:
        shown = credentials(one, environ)
    except ConfigError:
        return  # told already
    for what, secret in (("PASSWORD", shown.password), ("TOKEN", shown.token)):
        if secret and (why := weakness(secret, shown.username)):
            yield Problem((*at, "credentials_env"), f"{one.credentials_env}_{what} {why}")


def _caller(one: Caller, at: Location, environ: Mapping[str, str]) -> Iterator[Problem]:
    try:
        shown = caller_credentials(one, environ)
    except ConfigError:
        return
    if shown.password and (why := weakness(shown.password, shown.username)):
        yield Problem((*at, "credentials_env"), f"{one.credentials_env}_PASSWORD {why}")


def _sidecar(sidecar: Sidecar | None, allowed: frozenset[str]) -> Iterator[Problem]:
    if sidecar is None:
        return
    token = sidecar.token.get_secret_value()
    if "sidecar" not in allowed and not is_loopback(sidecar.host) and not sidecar.certificate:
        yield Problem(
            ("sidecar", "host"),
            "is public: write 127.0.0.1, give `certificate`, or name "
            '"sidecar" in [node] allow_plaintext where only the cluster reaches it',
        )
    if token and (why := weakness(token)):
        yield Problem(("sidecar", "token"), why)


def _staging(staging: Staging | None, allowed: frozenset[str], environ: Mapping[str, str]) -> Iterator[Problem]:
    if staging is None or staging.kind != "s3":
        return
    if staging.encryption == "none":
        yield Problem(("staging", "encryption"), "none leaves patients' data unencrypted: write sse-s3 or sse-kms")
    if _is_plain(staging.endpoint, "http") and "staging" not in allowed:
        yield Problem(
            ("staging", "endpoint"), 'is not encrypted: write https, or name "staging" in [node] allow_plaintext'
        )
    try:
        keys = storage_keys(staging, environ)
    except ConfigError:
        return
    if keys is not None and (why := weakness(keys.secret_key, keys.access_key)):
        yield Problem(("staging", "credentials_env"), f"{staging.credentials_env}_SECRET_KEY {why}")


def _jobs(jobs: Jobs | None, allowed: frozenset[str]) -> Iterator[Problem]:
    if jobs is None or jobs.url is None:
        return
    url = urlsplit(jobs.url.get_secret_value())
    if not url.scheme.startswith("postgresql"):
        return
    asked = parse_qs(url.query)
    # Without a host libpq takes a socket of this machine.
    host = (asked.get("host") or [url.hostname or ""])[0]
    local = not host or host.startswith("/") or is_loopback(host)
    if not local and "jobs" not in allowed and (asked.get("sslmode") or [""])[0] not in _ENCRYPTED:
        mend = 'add ?sslmode=verify-full (or require), or name "jobs" in [node] allow_plaintext'
        yield Problem(("jobs", "url"), f"the connection may be unencrypted: {mend}")
    password = unquote(url.password or "")
    if password and (why := weakness(password, unquote(url.username or ""))):
        yield Problem(("jobs", "url"), f"its password {why}")


def _redis(redis: Redis | None, allowed: frozenset[str]) -> Iterator[Problem]:
    if redis is None or not redis.configured:
        return
    url = urlsplit(redis.url.get_secret_value())
    if _is_plain(redis.url.get_secret_value(), "redis") and "redis" not in allowed:
        yield Problem(("redis", "url"), 'is not encrypted: write rediss, or name "redis" in [node] allow_plaintext')
    password = unquote(url.password or "")
    if not password and not is_loopback(url.hostname or ""):
        yield Problem(("redis", "url"), "has no password: anybody who reaches it can change what nodes count")
    elif password and (why := weakness(password, url.username or "")):
        yield Problem(("redis", "url"), f"its password {why}")


def _is_plain(url: str, scheme: str) -> bool:
    return url.startswith(f"{scheme}://") and not is_loopback(urlsplit(url).hostname or "")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself, by its numeric address or as `localhost`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
