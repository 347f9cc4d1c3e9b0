"""PROXY protocol version 2, against headers written by hand."""

from __future__ import annotations

import ipaddress
import struct

import pytest

from relaypacs.receive.proxy import MAX_HEADER_BYTES, SIGNATURE, Header, ProxyError, read_header


def header(command: int, kind: int, rest: bytes) -> bytes:
    return b"\r\n\r\n\x00\r\nQUIT\n" + struct.pack(">BBH", command, kind, len(rest)) + rest


def addresses(source: str, port: int) -> bytes:
    packed = ipaddress.ip_address(source).packed
    return packed + bytes(len(packed)) + struct.pack(">HH", port, 2762)


V4 = header(0x21, 0x11, addresses("192.0.2.7", 40000))
V6 = header(0x21, 0x21, addresses("2001:db8::7", 40001) + b"\x04\x00\x03abc")
MAPPED = header(0x21, 0x21, addresses("::ffff:192.0.2.7", 5))
LOCAL = header(0x20, 0x00, b"\x04\x00\x01x")


@pytest.mark.parametrize(
    ("data", "source"),
    [(V4, ("192.0.2.7", 40000)), (V6, ("2001:db8::7", 40001)), (MAPPED, ("192.0.2.7", 5)), (LOCAL, None)],
)
def test_whole_headers_wherever_they_are_cut(data: bytes, source: tuple[str, int] | None) -> None:
    for cut in range(len(data)):
        assert read_header(data[:cut]) is None, cut
    assert read_header(data + b"\x01\x00") == Header(len(data), source)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"PROXY TCP4 192.0.2.7 192.0.2.8 40000 104\r\n", "version 1"),
        (b"\x01\x00\x00\x00\x00\x40", "no PROXY protocol header"),
        (b"\x16\x03\x01", "no PROXY protocol header"),
        (b"\r\n\r\nx", "no PROXY protocol header"),
        (header(0x11, 0x11, addresses("192.0.2.7", 1)), "unknown version or command"),
        (header(0x22, 0x11, addresses("192.0.2.7", 1)), "unknown version or command"),
        (header(0x21, 0x12, addresses("192.0.2.7", 1)), "no TCP client"),
        (header(0x21, 0x00, b""), "no TCP client"),
        (header(0x21, 0x31, bytes(216)), "no TCP client"),
        (header(0x21, 0x21, addresses("192.0.2.7", 1)), "too short"),
        (SIGNATURE + struct.pack(">BBH", 0x21, 0x11, MAX_HEADER_BYTES), "over 2048 bytes"),
        (SIGNATURE + b"\x21\x11\xff\xff", "over 2048 bytes"),
    ],
)
def test_what_is_no_header_is_refused_at_once(data: bytes, sentence: str) -> None:
    with pytest.raises(ProxyError, match=sentence):
        read_header(data)
