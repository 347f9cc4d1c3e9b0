"""What a failed TLS handshake means, as one sentence with the mend: for the log of the listener, and for a destination.

OpenSSL names what it found itself, and what the peer's alert says (RFC 8446 6.2). Pure: error values in, words out;
nothing of the peer's certificate is quoted.
"""

from __future__ import annotations

import ssl
from typing import NamedTuple

# X509_V_ERR_… of OpenSSL, x509_vfy.h
_NOT_YET_VALID, _EXPIRED = (9, 13), (10, 14)
_UNKNOWN_ISSUER = (2, 18, 19, 20, 21, 27)
_WRONG_PURPOSE = (26, 79)
_NAME_MISMATCH = (62, 63, 64)


class Failure(NamedTuple):
    """A fixed word for metrics, and a clause about `it`, the peer."""

    word: str
    sentence: str


_OUR_CHECK = {
    _NOT_YET_VALID: Failure(
        "tls-expired", "its certificate is not valid yet: correct the clock here or there, or have it issued again"
    ),
    _EXPIRED: Failure("tls-expired", "its certificate has expired: renew it there"),
    _UNKNOWN_ISSUER: Failure(
        "tls-issuer", "no CA we trust has issued its certificate: add the issuer to `{ca}`, or correct the certificate"
    ),
    _WRONG_PURPOSE: Failure(
        "tls-certificate",
        "its certificate is not for this side of TLS (extended key usage): have it issued for it",
    ),
    _NAME_MISMATCH: Failure(
        "tls-certificate",
        "its certificate is for another name: set `tls_server_name` to a name in it, or correct it there",
    ),
}
_VERSION = Failure(
    "tls-version", "no TLS version is common, this node speaks 1.2 and 1.3 (PS3.15 B.12): enable one of them there"
)
_CIPHER = Failure(
    "tls-cipher",
    "no cipher suite is common, this node offers those of PS3.15 B.12 (ECDHE, AES-GCM): enable one of them there",
)
_FOUND = {
    "UNSUPPORTED_PROTOCOL": _VERSION,
    "VERSION_TOO_LOW": _VERSION,
    "NO_PROTOCOLS_AVAILABLE": _VERSION,
    "NO_SHARED_CIPHER": _CIPHER,
    "NO_SHARED_SIGNATURE_ALGORITHMS": _CIPHER,
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": Failure(
        "tls-no-certificate", "it shows no certificate, and this listener requires one: give it one there"
    ),
    "WRONG_VERSION_NUMBER": Failure("tls", "it does not speak TLS on this port"),
    "HTTP_REQUEST": Failure("tls", "it speaks HTTP, and this is a DICOM port"),
    "EE_KEY_TOO_SMALL": Failure(
        "tls-certificate", "its certificate's key is too short: have it issued with RSA 2048, ECDSA P-256 or better"
    ),
    "DH_KEY_TOO_SMALL": Failure("tls-cipher", "its Diffie-Hellman key is too short: mend its TLS set-up"),
}
# The peer's alert, whatever version OpenSSL puts in front of it (`TLSV1_ALERT_UNKNOWN_CA`).
_ALERTS = {
    "UNKNOWN_CA": "it does not trust the issuer of our certificate: give it our CA there",
    "BAD_CERTIFICATE": "it refuses our certificate: look whether the certificate and its issuer suit it",
    "UNSUPPORTED_CERTIFICATE": "it refuses the kind of our certificate: look for its key usage and key type",
    "CERTIFICATE_REVOKED": "it says our certificate was revoked: have a new one issued",
    "CERTIFICATE_EXPIRED": "it says our certificate has expired: renew it",
    "CERTIFICATE_UNKNOWN": "it refuses our certificate: give it our CA there, and look for the name it expects",
    "CERTIFICATE_REQUIRED": "it requires a certificate of ours: {own}",
    "ACCESS_DENIED": "it refuses our certificate: permit it there",
    "DECRYPT_ERROR": "it can't verify our certificate's signature: do certificate and key belong together?",
    "PROTOCOL_VERSION": _VERSION.sentence,
    "INSUFFICIENT_SECURITY": _CIPHER.sentence,
    "HANDSHAKE_FAILURE": "it refuses the handshake: no common cipher suite, or no certificate of ours ({own})",
}


def handshake_failure(error: ssl.SSLError, *, acceptor: bool) -> Failure:
    """Why TLS with a peer failed. `acceptor`: the peer connected to us."""
    own = "see [tls] certificate" if acceptor else "set `tls_certificate` and `tls_key`"
    if isinstance(error, ssl.SSLCertVerificationError):
        for codes, failure in _OUR_CHECK.items():
            if error.verify_code in codes:
                return failure._replace(
                    sentence=failure.sentence.format(ca="[tls] client_ca" if acceptor else "tls_ca")
                )
        return Failure("tls-certificate", f"its certificate can't be verified (X.509 error {error.verify_code})")
    reason = error.reason or ""
    if reason in _FOUND:
        return _FOUND[reason]
    _, alerted, alert = reason.partition("ALERT_")
    if alerted:
        sentence = _ALERTS.get(alert, f"it ended TLS with the alert {alert.lower()}")
        return Failure("tls-alert", sentence.format(own=own))
    return Failure("tls", f"TLS failed ({reason.lower() or 'no reason given'})")
