"""The certificates that this node shows when it connects to others: their expiry is looked at as that of its own
listeners. For `doctor` and the sidecar. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from relaypacs.config.model import Config


def shown_certificates(config: Config) -> Mapping[str, Path]:
    """Files by what for: `destination/NAME`, `audit`."""
    files = {f"destination/{one.name}": one.tls_certificate for one in config.destination}
    files["audit"] = config.audit.tls_certificate if config.audit.collector else ""
    return {use: Path(file) for use, file in files.items() if file}
