"""[sidecar]: health and metrics over HTTP, and who may ask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from relaypacs.config.options import File, Host, Port
from relaypacs.config.section import Section

_LEAST_TOKEN = 16


def _check_token(value: SecretStr) -> SecretStr:
    text = value.get_secret_value().strip()
    # RFC 6750 2.1: what a bearer token may be made of.
    if text and not (len(text) >= _LEAST_TOKEN and text.isascii() and text.isprintable() and " " not in text):
        raise ValueError(f"write at least {_LEAST_TOKEN} ASCII characters without blanks")
    return SecretStr(text)


class Sidecar(Section):
    """[sidecar]: health and metrics over HTTP."""

    host: Host = Field(
        "127.0.0.1", description="Address to listen on; any but this machine's own needs `token` or `certificate`."
    )
    port: Port = Field(8080, description="TCP port.")
    token: Annotated[SecretStr, AfterValidator(_check_token)] = Field(
        SecretStr(""),
        description="Bearer token that /metrics, and the reasons of /readyz, are shown for; empty asks for none. "
        "RELAYPACS_SIDECAR__TOKEN overrides it.",
    )
    certificate: File = Field(
        "", description="PEM file with a certificate (then those above it): HTTPS instead of HTTP. Changes are noticed."
    )
    key: File = Field(
        "", description="PEM file with the certificate's key, without pass phrase. Default: in the certificate's file."
    )
    max_requests_per_minute: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        100,
        description="Requests of one address (IPv6: of one /64) in a minute, more get 429; 0 is no limit. "
        "This machine's own are not counted.",
    )

    def inconsistencies(self) -> Iterator[str]:
        """A key of nothing."""
        if self.key and not self.certificate:
            yield "`key` goes with `certificate`: give both"
