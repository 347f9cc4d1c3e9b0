"""Certificates made by the `openssl` command: an authority, and what it issues."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

OPENSSL = "/usr/bin/openssl"
_SERVER_NAMES = "DNS:localhost,IP:127.0.0.1,IP:::1"


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its key, PEM files."""

    certificate: Path
    key: Path

    def tls(self, **more: object) -> dict[str, object]:
        """Options of [tls] that use it."""
        return {"certificate": str(self.certificate), "key": str(self.key), **more}


class Authority:
    """A CA in a folder of its own."""

    def __init__(self, folder: Path, name: str = "Test CA") -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._made = 0
        self._key, self.certificate = folder / "ca.key", folder / "ca.pem"
        openssl("req", "-x509", *_new_key(self._key), "-out", self.certificate, "-days", "30", "-subj", f"/CN={name}")

    def issue(
        self,
        subject: str = "/CN=localhost",
        *,
        names: str = _SERVER_NAMES,
        days: int = 20,
        key_type: Sequence[str] = ("ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
        usage: str = "",
    ) -> Identity:
        """A certificate for `subject` (`/O=Clinic/CN=ct1`); `names` is its subjectAltName, `days` may be negative."""
        self._made += 1
        stem = self._folder / f"{self._made:03}"
        key, request, extensions, certificate = (stem.with_suffix(one) for one in (".key", ".csr", ".ext", ".pem"))
        openssl("req", *_new_key(key, key_type), "-out", request, "-subj", subject)
        lines = [f"subjectAltName={names}"] * bool(names) + [f"extendedKeyUsage={usage}"] * bool(usage)
        extensions.write_text("\n".join(["basicConstraints=CA:FALSE", *lines]))
        signed = ("-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial", "-days", str(days))
        openssl("x509", "-req", "-in", request, *signed, "-extfile", extensions, "-out", certificate)
        return Identity(certificate, key)


def _new_key(path: Path, key_type: Sequence[str] = ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")) -> list[str | Path]:
    return ["-newkey", *key_type, "-nodes", "-keyout", path]


def openssl(*words: str | Path) -> str:
    """What the command writes."""
    done = subprocess.run([OPENSSL, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def client(
    authority: Authority | None = None, identity: Identity | None = None, *, ciphers: str = "", versions: str = ""
) -> ssl.SSLContext:
    """Python's TLS as a client that trusts `authority` and shows `identity`. `versions`: `1.1`, `1.2` or `1.3`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authority is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(authority.certificate)
    if identity is not None:
        context.load_cert_chain(identity.certificate, identity.key)
    if ciphers:
        context.set_ciphers(ciphers)
    if versions:
        version = ssl.TLSVersion[f"TLSv{versions.replace('.', '_')}"]
        context.minimum_version = context.maximum_version = version
    return context
