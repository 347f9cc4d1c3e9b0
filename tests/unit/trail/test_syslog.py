"""A syslog line as RFC 5424 writes it and RFC 5425 frames it, with PS3.15 A.6's values."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from relaypacs.trail.syslog import frame, line

HEADER = re.compile(
    rb"<(\d{1,3})>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) ([!-~]{1,255}) relaypacs ([!-~]{1,128}) DICOM\+RFC3881 - "
)


def test_a_line() -> None:
    made = line("<é/>".encode(), at=0.0, host="relay.example", process="42")
    assert made == b"<85>1 1970-01-01T00:00:00.000Z relay.example relaypacs 42 DICOM+RFC3881 - \xef\xbb\xbf<\xc3\xa9/>"
    assert line(b"", at=0.0, host="h", process="1", outcome=8).startswith(b"<84>1 ")


@given(st.text(max_size=300), st.text(max_size=300), st.binary(max_size=50))
def test_no_name_breaks_a_header(host: str, process: str, body: bytes) -> None:
    made = line(body, at=1.0, host=host, process=process)
    header = HEADER.match(made)
    assert header is not None
    assert made[header.end() :] == b"\xef\xbb\xbf" + body


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_frames_are_taken_apart_again(messages: list[bytes]) -> None:
    stream, found = b"".join(map(frame, messages)), []
    while stream:
        length, _, rest = stream.partition(b" ")
        found.append(rest[: int(length)])
        stream = rest[int(length) :]
    assert found == messages
