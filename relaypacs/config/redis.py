"""[redis]: what several nodes count together, and how the server is reached."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr

from relaypacs.config.options import Name, Seconds
from relaypacs.config.section import Section


def _check_url(value: SecretStr) -> SecretStr:
    text = value.get_secret_value().strip()
    if not text:
        return SecretStr("")
    try:
        url = urlsplit(text)
        database = url.path.removeprefix("/")
        place = bool(url.hostname) and url.port != 0 and (database.isdigit() or not database)
        good = url.scheme in {"redis", "rediss"} and place and text.isprintable() and not set(text) & set(" ?#")
    except ValueError:
        good = False
    if not good:
        raise ValueError("write redis://:PASSWORD@HOST:PORT/0, or rediss:// for TLS, without blanks, `?` or `#`")
    return SecretStr(text)


def _check_file(value: str) -> str:
    if value and not (Path(value).is_absolute() and value.isprintable()):
        raise ValueError("write an absolute path")
    return value


File = Annotated[str, AfterValidator(_check_file)]


class Redis(Section):
    """[redis]: limits and wake-ups shared by several nodes. Never needed: without it each node counts for itself."""

    url: Annotated[SecretStr, AfterValidator(_check_url)] = Field(
        SecretStr(""),
        description="redis://:PASSWORD@HOST:PORT/0, or rediss:// for TLS (a Redis Cluster: any of its nodes). Empty: none. REDIS_URL overrides it.",
    )
    key_prefix: Name = Field("relaypacs", description="What every key begins with: nodes with the same count together.")
    nodes: Annotated[int, Field(ge=1, le=1000)] = Field(
        2, description="Most nodes that share it: while Redis is gone each keeps to this part of a shared limit."
    )
    max_associations_per_ae: Annotated[int, Field(ge=0, le=100_000)] = Field(
        0,
        description="Associations of one calling AE title open at once over all nodes; 0 is no limit. More get RJ 2/3/2.",
    )
    max_failed_associations_per_address: Annotated[int, Field(ge=0, le=100_000)] = Field(
        0,
        description="Association requests of one address (IPv6: one /64) that may fail in `failed_window_seconds` over all nodes; 0 is no limit. Then it gets RJ 2/3/2.",
    )
    failed_window_seconds: Seconds = Field(60.0, description="Time over which failures are counted, in seconds.")
    refuse_seconds: Seconds = Field(
        300.0, description="How long an address that failed too often is refused, in seconds."
    )
    lease_seconds: Annotated[float, Field(ge=3, le=3600)] = Field(
        30.0, description="How long what a node that died had taken stays counted, in seconds."
    )
    timeout_seconds: Annotated[float, Field(ge=0.01, le=5)] = Field(
        0.1, description="Longest time an association request waits for Redis, in seconds; then the node decides alone."
    )
    connect_timeout_seconds: Annotated[float, Field(gt=0, le=60)] = Field(
        2.0, description="Longest time to connect to Redis, in seconds; nobody waits for it."
    )
    tls_ca_file: File = Field(
        "",
        description="rediss: PEM file of the authorities that may have signed its certificate. Default: the system's.",
    )
    tls_certificate_file: File = Field("", description="rediss: PEM file of this node's own certificate.")
    tls_key_file: File = Field("", description="rediss: PEM file of that certificate's key.")

    def inconsistencies(self) -> Iterator[str]:
        """TLS options that go together."""
        if bool(self.tls_certificate_file) != bool(self.tls_key_file):
            yield "give both `tls_certificate_file` and `tls_key_file`, or neither"
        # A table that is wrong elsewhere comes as it was written, with its texts bare.
        url = str(getattr(self.url, "get_secret_value", lambda: self.url)())
        if url and not url.startswith("rediss:") and (self.tls_ca_file or self.tls_certificate_file):
            yield "the `tls_…` options are for rediss://; write `url` so"

    @property
    def configured(self) -> bool:
        """Whether there is a Redis."""
        return bool(self.url.get_secret_value())
