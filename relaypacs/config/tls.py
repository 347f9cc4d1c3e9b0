"""[tls]: DICOM TLS on reception, beside the plain listener or in its place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from relaypacs.config.options import Endpoint, File, Seconds
from relaypacs.config.section import Section


class Tls(Section):
    """[tls]: DICOM TLS on reception (PS3.15 B.12: TLS 1.2 and 1.3). Changed files are used for new connections."""

    listen: tuple[Endpoint, ...] = Field(
        (),
        description="Addresses to listen on with TLS: HOST:PORT, or [ADDRESS]:PORT with IPv6; the usual port is 2762.",
    )
    certificate: File = Field(
        "", description="PEM file with this node's certificate, then those of the CAs between it and the root."
    )
    key: File = Field(
        "",
        description="PEM file with the certificate's key, without pass phrase. Default: in the certificate's file.",
    )
    client_certificates: Literal["none", "optional", "required"] = Field(
        "none",
        description="Whether senders show a certificate. optional: what is shown must be good. required: all do.",
    )
    client_ca: File = Field(
        "", description="PEM file with the CAs, or single certificates, that senders' certificates are verified with."
    )
    handshake_timeout_seconds: Seconds = Field(
        10.0, description="Time a connection has for the TLS handshake, in seconds."
    )

    def inconsistencies(self) -> Iterator[str]:
        """A listener without what it needs."""
        if self.listen and not self.certificate:
            yield "`listen` needs `certificate`: the PEM file with this node's certificate"
        if self.client_certificates != "none" and not self.client_ca:
            yield f'client_certificates = "{self.client_certificates}" needs `client_ca`: whom they are verified with'
        if self.client_certificates == "none" and self.client_ca:
            yield '`client_ca` is for client_certificates = "optional" or "required": set one of them'
