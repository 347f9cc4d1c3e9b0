"""A client of the configured Redis, and what its errors mean: one sentence each, with the mend, quoting no server.

Used by `wake.keeper`, `wake.remote` and, through `probe`, the sidecar. Nothing is connected before the first command;
every wait is bounded. redis-py's own retries are off: who asks decides what a failure means.
"""

from __future__ import annotations

import re
import ssl
from typing import Any, cast

import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
)
from redis.retry import Retry

from relaypacs.config.redis import Redis

ANSWER_TIMEOUT_SECONDS = 1.0
"""Longest silence while an answer is owed: a Redis that hangs is as good as gone."""
TROUBLES = (RedisError, RedisClusterException, OSError, ValueError, TypeError)
"""What a command may raise; the last two where something answers that is no Redis."""

# In this order: several of them are kinds of ConnectionError.
_SENTENCES: tuple[tuple[type[Exception], str], ...] = (
    (AuthenticationError, "it refuses our user or password: correct [redis] url (REDIS_URL)"),
    (AuthorizationError, "it refuses our user or password: correct [redis] url (REDIS_URL)"),
    (NoPermissionError, "our user may not do what is needed: allow it EVALSHA, EVAL, SUBSCRIBE and our keys"),
    (ReadOnlyError, "it is a read-only replica: let [redis] url name the primary"),
    (OutOfMemoryError, "it is out of memory and refuses writes: raise its maxmemory, or let it evict (allkeys-lru)"),
    (BusyLoadingError, "it is still loading its data"),
    (RedisClusterException, "its cluster is down or incomplete"),
    (ClusterError, "its cluster is down or incomplete"),
    (redis.TimeoutError, "it does not answer in time"),
    (TimeoutError, "it does not answer in time"),
    (ResponseError, "it refuses what is needed"),
    (RedisError, "it can't be reached: check [redis] url and the network"),
    (OSError, "it can't be reached: check [redis] url, its TLS files and the network"),
    (Exception, "what answers there is no Redis: check [redis] url"),
)
_CODE = re.compile(r"[A-Z]{2,20}\b")


def key_of(settings: Redis, *parts: str) -> str:
    """A key of ours. The braces put all of them on one node of a Redis Cluster, so that a script may use several."""
    return ":".join((f"{{{settings.key_prefix}}}", *parts))


def connect(settings: Redis, *, cluster: bool = False, silence_seconds: float = ANSWER_TIMEOUT_SECONDS) -> redis.Redis:
    """A client. `cluster`: of a Redis Cluster, whose nodes are asked for at once (so this may raise `TROUBLES`)."""
    url = settings.url.get_secret_value()
    options: dict[str, Any] = {
        "socket_timeout": silence_seconds,
        "socket_connect_timeout": settings.connect_timeout_seconds,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "decode_responses": True,
    }
    if url.startswith("rediss:"):
        options |= {
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": True,
            "ssl_min_version": ssl.TLSVersion.TLSv1_2,
            "ssl_ca_certs": settings.tls_ca_file or None,
            "ssl_certfile": settings.tls_certificate_file or None,
            "ssl_keyfile": settings.tls_key_file or None,
        }
    if not cluster:
        return redis.Redis.from_url(url, **options)
    # Its commands are the same; its class is another.
    return cast("redis.Redis", RedisCluster.from_url(url, **options))


def is_moved(error: Exception) -> bool:
    """Whether the server belongs to a Redis Cluster and another of its nodes is to be asked."""
    return isinstance(error, MovedError)


def sentence(error: Exception) -> str:
    """What is wrong and how to mend it. Of the server's own words at most the code in front (`MISCONF`) is shown."""
    if isinstance(error.__cause__, ssl.SSLError) or isinstance(error.__context__, ssl.SSLError):
        return "TLS with it fails: check its certificate against [redis] tls_ca_file, and that it wants TLS"
    text = next(text for kind, text in _SENTENCES if isinstance(error, kind))
    code = _CODE.match(str(error)) if isinstance(error, ResponseError) else None
    return f"{text} ({code[0]})" if code else text


def probe(settings: Redis) -> str:
    """Ask a configured Redis to write something: "" if it does, else what is wrong. Takes some seconds at most."""
    cluster = False
    for _ in range(2):
        try:
            client = connect(settings, cluster=cluster)
            try:
                client.set(key_of(settings, "probe"), "1", px=int(settings.lease_seconds * 1000))
            finally:
                client.close()
            return ""
        except TROUBLES as error:
            if not is_moved(error):
                return sentence(error)
            cluster = True
    return "its cluster is being changed"
