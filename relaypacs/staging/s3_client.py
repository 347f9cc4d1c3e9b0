"""A boto3 client for the configured object storage, and what its errors mean in one sentence.

`S3Staging` and `s3_bucket` make every request through `Storage.call`. Nothing here quotes a key, a header or what the
service wrote, but its error code. The client is made when first used, so after the fork, and made anew when the
service refuses its credentials and others are there by now.
"""

from __future__ import annotations

import functools
import io
import os
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError, SSLError
from botocore.exceptions import ConnectionError as ConnectionFailed
from botocore.loaders import Loader
from prometheus_client import Counter, Histogram

from relaypacs.config.secrets import StorageKeys
from relaypacs.config.stores import Staging
from relaypacs.errors import ObjectArchived, ObjectMissing, RelayPacsError, StagingDown, StagingError

DOWN_SECONDS = 2.0
"""After a failure of the whole storage others fail at once for so long, instead of each waiting for its time-out."""
_TRY_SECONDS = 0.5
_UNHURRIED = frozenset({"put", "check"})
"""They may wait a little for the one that tries; `check` is what the first put does."""
_READERS = 32
_SMALL_BODY_BYTES = 1 << 20
_SYSTEMS_AUTHORITIES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
_T = TypeVar("_T")

_REQUESTS = Counter(
    "relaypacs_object_storage_requests_total",
    "Requests to object storage, by operation and outcome: ok, missing, refused, down, damaged.",
    ["operation", "outcome"],
)
_SECONDS = Histogram(
    "relaypacs_object_storage_seconds",
    "Time of a request to object storage with its retries.",
    ["operation"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
_BAD_CREDENTIALS = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"}
)
_OVERLOADED = frozenset(
    {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "Throttling", "TooManyRequests"}
)
_ARCHIVED, _SKEWED = "InvalidObjectState", "RequestTimeTooSkewed"
"""403s that have nothing to do with rights."""
_ELSEWHERE = frozenset({"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"})


class _NotAllowed(StagingDown):
    """This one operation is refused; others may do."""


class _Down(NamedTuple):
    """Why requests fail, and until when at once (time.monotonic())."""

    until: float
    error: StagingDown
    tried: bool = False
    """Whether a request is out that tries it."""


class Storage:
    """One bucket of one service, for any number of threads."""

    def __init__(self, staging: Staging, keys: Callable[[], StorageKeys | None]) -> None:
        """`keys` reads the configured credentials now; None: the AWS chain. ConfigError of it is a StagingDown."""
        self.staging = staging
        self._keys = keys
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        self._client: Any = None
        self._shown: StorageKeys | None = None
        self._down: dict[str, _Down] = {}

    def call(self, operation: str, ask: Callable[[Any], _T]) -> _T:
        """`ask(client)`; whatever goes wrong is a StagingError. While storage is down it fails at once, but for one
        request every `DOWN_SECONDS` that tries whether it still is; an operation that isn't allowed stops no other."""
        if self._down:
            self._look_whether_down(operation)
        started = time.monotonic()
        try:
            try:
                answer = ask(self.client())
            except ClientError as problem:
                if not _is_refusal(problem) or not self._rotate():
                    raise
                answer = ask(self.client())
        except (BotoCoreError, ClientError, RelayPacsError) as problem:
            error = problem if isinstance(problem, RelayPacsError) else self.error(operation, problem)
            if isinstance(error, StagingDown):
                with self._changed:
                    which = operation if isinstance(error, _NotAllowed) else ""
                    self._down[which] = _Down(time.monotonic() + DOWN_SECONDS, error)
                    self._changed.notify_all()
            elif self._down:
                self._answers(operation)
            _REQUESTS.labels(operation, _outcome(error)).inc()
            if error is problem:
                raise
            raise error from None  # boto's own text may hold a key
        if self._down:
            self._answers(operation)
        good, seconds = _succeeded(operation)
        good.inc()
        seconds.observe(time.monotonic() - started)
        return answer

    def _look_whether_down(self, operation: str) -> None:
        """StagingDown, unless this is the request that tries whether storage is back."""
        with self._changed:
            for which in ("", operation):
                down = self._down.get(which)
                if down is not None and down.tried and operation in _UNHURRIED:
                    # When the one that tries succeeds, all of them go on.
                    self._changed.wait_for(functools.partial(self._other_than, which, down), _TRY_SECONDS)
                    down = self._down.get(which)
                if down is None:
                    continue
                if time.monotonic() < down.until:
                    raise StagingDown(str(down.error))
                # Others don't wait for this one's time-outs.
                longest_seconds = self.staging.connect_timeout_seconds + self.staging.read_timeout_seconds
                self._down[which] = _Down(time.monotonic() + longest_seconds, down.error, tried=True)

    def _other_than(self, which: str, seen: _Down) -> bool:
        return self._down.get(which) is not seen

    def _answers(self, operation: str) -> None:
        with self._changed:
            self._down.pop("", None)
            self._down.pop(operation, None)
            self._changed.notify_all()

    def client(self) -> Any:
        """The boto3 client. StagingDown if the credentials can't be read."""
        with self._lock:
            if self._client is None:
                self._shown = self._read_keys()
                self._client = make_client(self.staging, self._shown)
            return self._client

    def _rotate(self) -> bool:
        """Whether there may be other credentials now than those that were refused; then the next client shows them."""
        keys = self._read_keys()
        with self._lock:
            if keys is not None and keys == self._shown:
                return False
            self._client = None
            return True

    def _read_keys(self) -> StorageKeys | None:
        try:
            return self._keys()
        except RelayPacsError as problem:
            raise StagingDown(f"object storage: {problem}") from None

    def error(self, operation: str, problem: Exception) -> StagingError:
        """What a failed request means, and its mend."""
        staging = self.staging
        where = staging.endpoint or "Amazon S3"
        if isinstance(problem, SSLError):
            why = "its certificate is not trusted, or its name is another; look at [staging] ca_bundle and endpoint"
            return StagingDown(f"object storage: TLS with {where} fails: {why}")
        if isinstance(problem, ConnectionFailed | HTTPClientError | IncompleteReadError):
            return StagingDown(f"object storage: {where} does not answer ({type(problem).__name__})")
        if not isinstance(problem, ClientError):
            if type(problem).__name__ in {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"}:
                prefix = staging.credentials_env or "MINIO"
                text = f"no credentials; set {prefix}_ACCESS_KEY and {prefix}_SECRET_KEY, or what the AWS chain reads"
                return StagingDown(f"object storage: {text}")
            return StagingDown(f"object storage: {operation} is not possible ({type(problem).__name__})")
        code, status = code_of(problem), _status(problem)
        if code == "NoSuchBucket":
            text = f"there is no bucket {staging.bucket} at {where}; correct [staging] or run `relaypacs staging init`"
            return StagingDown(f"object storage: {text}")
        if code in {"NoSuchKey", "NoSuchVersion"} or (code == "404" and status == 404):
            return ObjectMissing("staging: the object is not there")
        if code in _BAD_CREDENTIALS:
            return StagingDown(f"object storage: {where} refuses the credentials ({code}); set those it knows")
        if code == _ARCHIVED:
            return ObjectArchived("staging: the object is archived; restore it in the bucket, then try again")
        if code == _SKEWED:
            return StagingDown(f"object storage: the clocks of this node and of {where} differ ({code}); set them")
        if status == 403 or code in {"AccessDenied", "AllAccessDisabled"}:
            text = f"{where} does not allow {operation} on bucket {staging.bucket} ({code}); look at the key's policy"
            return _NotAllowed(f"object storage: {text}")
        if code in _ELSEWHERE or status == 301:
            return StagingDown(f"object storage: bucket {staging.bucket} lies in another region; set [staging] region")
        if code in _OVERLOADED or status >= 500:
            return StagingDown(f"object storage: {where} is overloaded or in trouble ({code or status})")
        return StagingError(f"object storage: {where} answered {code or status} to {operation}")


@functools.cache
def _succeeded(operation: str) -> tuple[Counter, Histogram]:
    """Looking a label up costs more than counting it."""
    return _REQUESTS.labels(operation, "ok"), _SECONDS.labels(operation)


def code_of(problem: Exception) -> str:
    """The service's error code, in letters and digits; "" if there is none."""
    code = problem.response.get("Error", {}).get("Code", "") if isinstance(problem, ClientError) else ""
    return code if code.isascii() and code.isalnum() and len(code) <= 64 else ""


def _is_refusal(problem: ClientError) -> bool:
    """Whether other credentials may help."""
    code = code_of(problem)
    return code in _BAD_CREDENTIALS or (_status(problem) == 403 and code not in {_ARCHIVED, _SKEWED})


def _status(problem: ClientError) -> int:
    return int(problem.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _outcome(error: RelayPacsError) -> str:
    if isinstance(error, ObjectMissing):
        return "missing"
    if isinstance(error, StagingDown):
        return "down"
    return "refused" if isinstance(error, StagingError) else "damaged"


@functools.cache
def _descriptions() -> Loader:
    """The descriptions of Amazon's services, read once: they are most of what a client costs."""
    return Loader(extra_search_paths=[os.path.join(os.path.dirname(boto3.__file__), "data")])


def make_client(staging: Staging, keys: StorageKeys | None, *, attempts: int = 0, timeout_seconds: float = 0.0) -> Any:
    """A boto3 client as configured; `attempts` and `timeout_seconds` are other bounds than the configured ones."""
    style = staging.addressing
    if style == "auto":
        style = "path" if staging.endpoint else "auto"
    core = botocore.session.Session()
    core.register_component("data_loader", _descriptions())
    session = boto3.session.Session(botocore_session=core)
    client = session.client(
        "s3",
        endpoint_url=staging.endpoint or None,
        region_name=staging.region or session.region_name or "us-east-1",
        aws_access_key_id=keys.access_key if keys else None,
        aws_secret_access_key=keys.secret_key if keys else None,
        aws_session_token=(keys.session_token or None) if keys else None,
        verify=_trusted(staging, core),
        config=Config(
            connect_timeout=timeout_seconds or staging.connect_timeout_seconds,
            read_timeout=timeout_seconds or staging.read_timeout_seconds,
            retries={"mode": "adaptive", "total_max_attempts": attempts or staging.attempts},
            max_pool_connections=staging.puts_at_once + _READERS,
            tcp_keepalive=True,
            # We send SHA-256 in a signed header and the service compares the body with it: no second hash is needed.
            s3={"addressing_style": style, "payload_signing_enabled": False},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            # Nothing but our own keys and figures goes into a request.
            parameter_validation=False,
        ),
    )
    client.meta.events.register_last("before-call.s3", _send_at_once)
    return client


def _trusted(staging: Staging, core: botocore.session.Session) -> str | None:
    """File of the authorities to trust: as configured, as the AWS chain says, the system's; None: boto's own."""
    if staging.ca_bundle is not None:
        return str(staging.ca_bundle)
    if core.get_config_variable("ca_bundle"):
        return None
    found = (ssl.get_default_verify_paths().cafile, *_SYSTEMS_AUTHORITIES)
    return next((one for one in found if one and os.path.isfile(one)), None)


def _send_at_once(params: dict[str, Any], **_: object) -> None:
    """A small body is sent with its headers: asking first whether the service wants it costs a round trip each."""
    body = params["body"]
    if isinstance(body, io.BytesIO) and body.getbuffer().nbytes <= _SMALL_BODY_BYTES:
        params["headers"].pop("Expect", None)
