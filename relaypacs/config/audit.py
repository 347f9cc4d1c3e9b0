"""[audit]: how long the audit trail is kept, and the collector it is sent to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator, Field

from relaypacs.config.options import File, endpoint
from relaypacs.config.section import Section

LEAST_DAYS = 90


def _check_keep(value: str) -> str:
    days = value[:-1]
    if value != "forever" and not (value.endswith("d") and days.isascii() and days.isdigit() and len(days) <= 5):
        raise ValueError("write forever, or a number of days such as 2192d")
    if value != "forever" and int(days) < LEAST_DAYS:
        raise ValueError(f"an audit trail is kept for {LEAST_DAYS}d at least; the database deletes nothing younger")
    return value


def _check_collector(value: str) -> str:
    if value and endpoint(value)[1] == 0:
        raise ValueError("write HOST:PORT; the usual port is 6514")
    return value


class Audit(Section):
    """[audit]: the trail of who did what (docs/audit.md), in the job table and, if there is one, at a collector.

    The collector is a syslog server with TLS (RFC 5425); it gets PS3.15 A.5 messages.
    """

    keep: Annotated[str, AfterValidator(_check_keep)] = Field(
        "2192d", description="How long rows of the audit trail stay: days, at least 90d, or `forever`. Six years."
    )
    collector: Annotated[str, AfterValidator(_check_collector)] = Field(
        "", description="HOST:PORT of the syslog server, always with TLS; the usual port is 6514. Empty: none."
    )
    tls_ca: File = Field(
        "", description="PEM file with the CA the collector's certificate is verified with. Default: the system's."
    )
    tls_certificate: File = Field("", description="PEM file with the certificate this node shows the collector.")
    tls_key: File = Field("", description="PEM file with its key. Default: in the certificate's file.")
    tls_server_name: str = Field("", description="Name in the collector's certificate, if it is not its host.")
    site: str = Field(
        "", max_length=64, description="AuditEnterpriseSiteID of the messages: your name for this place. Empty: none."
    )

    def inconsistencies(self) -> Iterator[str]:
        """TLS options that have nothing to be for."""
        if not self.collector and (self.tls_ca or self.tls_certificate or self.tls_server_name):
            yield "the `tls_…` options are for a `collector`: give its HOST:PORT"
        if self.tls_key and not self.tls_certificate:
            yield "`tls_key` has no effect without `tls_certificate`"

    @property
    def keep_seconds(self) -> float | None:
        """How long rows stay: seconds, or None for ever."""
        return None if self.keep == "forever" else float(self.keep[:-1]) * 86400
