"""Syslog as RFC 5424 writes it and RFC 5425 frames it, with PS3.15 A.6's values. Pure: bytes of a message out.

Header fields are ASCII and of a bounded length, so what a host is called can't break one.
"""

from __future__ import annotations

import codecs

from relaypacs.dicom.audit_message import moment

MSGID = "DICOM+RFC3881"
"""PS3.15 A.6; the messages themselves are those of A.5."""
APP_NAME = "relaypacs"
_FACILITY = 10
"""Security and authorization (PS3.15 A.6)."""
_NOTICE, _WARNING = 5, 4
_NIL = "-"
_LONGEST_HOST, _LONGEST_PROCESS = 255, 128
"""RFC 5424 6."""


def line(body: bytes, *, at: float, host: str, process: str, outcome: int = 0) -> bytes:
    """A SYSLOG-MSG with an XML body in UTF-8. `at`: seconds since the epoch; `outcome` is that of the event."""
    priority = _FACILITY * 8 + (_WARNING if outcome else _NOTICE)
    header = " ".join(
        (
            f"<{priority}>1",
            moment(at),
            _field(host, _LONGEST_HOST),
            APP_NAME,
            _field(process, _LONGEST_PROCESS),
            MSGID,
            _NIL,
        )
    )
    return header.encode("ascii") + b" " + codecs.BOM_UTF8 + body


def frame(message: bytes) -> bytes:
    """MSG-LEN SP SYSLOG-MSG (RFC 5425 4.3)."""
    return str(len(message)).encode("ascii") + b" " + message


def _field(text: str, longest: int) -> str:
    """PRINTUSASCII without blanks."""
    return "".join(one if "!" <= one <= "~" else "?" for one in text)[:longest] or _NIL
