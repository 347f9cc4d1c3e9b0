"""How a destination's configuration says that TLS is spoken to it; used by whoever connects to it."""

from __future__ import annotations

from pathlib import Path

from relaypacs.config.model import Destination
from relaypacs.upper.tls import ClientTls


def client_tls(destination: Destination) -> ClientTls | None:
    """TLS as a dimse destination wants it, or None for plain. Its files are read when it is connected to."""
    if not destination.tls:
        return None
    return ClientTls(
        ca=_path(destination.tls_ca),
        certificate=_path(destination.tls_certificate),
        key=_path(destination.tls_key),
        server_name=destination.tls_server_name,
    )


def web_tls(destination: Destination) -> ClientTls | None:
    """TLS as a dicomweb destination wants it (for its `token_url` too), or None for the system's own settings."""
    if not (destination.tls_ca or destination.tls_certificate):
        return None
    return ClientTls(
        ca=_path(destination.tls_ca), certificate=_path(destination.tls_certificate), key=_path(destination.tls_key)
    )


def _path(option: str) -> Path | None:
    return Path(option) if option else None
