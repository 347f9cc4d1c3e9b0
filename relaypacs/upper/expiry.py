"""When a certificate expires, read from its PEM text: for those who have to tell in time."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


def first_expiry(pem: str) -> float:
    """When the first of the certificates in a PEM text expires, in seconds since 1970. ValueError, IndexError."""
    ends = []
    for block in pem.split(_BEGIN)[1:]:
        ends.append(_not_after(ssl.PEM_cert_to_DER_cert(_BEGIN + block.partition(_END)[0] + _END)))
    return min(ends)


def _not_after(der: bytes) -> float:
    """The end of a certificate's validity (RFC 5280 4.1): the second time in the fourth or fifth field."""
    at, _ = _inside(der, 0)  # Certificate
    at, _ = _inside(der, at)  # TBSCertificate
    if der[at] == 0xA0:  # version
        at = sum(_inside(der, at))
    for _ in range(3):  # serial number, signature, issuer
        at = sum(_inside(der, at))
    at, _ = _inside(der, at)
    at = sum(_inside(der, at))  # not before
    kind, (start, length) = der[at], _inside(der, at)
    text = der[start : start + length].decode("ascii")
    form = "%y%m%d%H%M%SZ" if kind == 0x17 else "%Y%m%d%H%M%SZ"  # UTCTime, GeneralizedTime
    return datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()


def _inside(der: bytes, at: int) -> tuple[int, int]:
    """Where the value of the DER element at `at` begins, and its length."""
    length, at = der[at + 1], at + 2
    if length < 0x80:
        return at, length
    size = length & 0x7F
    return at + size, int.from_bytes(der[at : at + size], "big")
