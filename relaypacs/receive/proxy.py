"""PROXY protocol version 2: the header with which a load balancer says whose connection it passes on. Pure.

Used by `receive.opening` on connections from `[receive] proxy_from` alone. Raises `ProxyError` on anything that is no
such header; the sentence names the mend.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED = struct.Struct(">12sBBH")  # signature, version and command, family and protocol, length of the rest
MAX_HEADER_BYTES = 2048
"""Addresses take 36 bytes at most; the rest are type-length-values that nobody here reads."""
STRAY_HEADER = "a PROXY protocol header from an address that is not in [receive] proxy_from: add it if it is a balancer"
_LOCAL, _PROXY = 0x20, 0x21
_TCP4, _TCP6 = 0x11, 0x21
_ADDRESSES = {_TCP4: struct.Struct(">4s4sHH"), _TCP6: struct.Struct(">16s16sHH")}


class ProxyError(Exception):
    """No header of this protocol, or one that doesn't do."""


@dataclass(frozen=True, slots=True)
class Header:
    """A whole header of `size_bytes`. `source`: the client's address and port; None: the balancer speaks for itself."""

    size_bytes: int
    source: tuple[str, int] | None


def read_header(received: bytes | bytearray) -> Header | None:
    """The header at the beginning of what has come; None while it is not whole. Raises `ProxyError`."""
    start = bytes(received[: len(SIGNATURE)])
    if not SIGNATURE.startswith(start):
        if start.startswith(b"PROXY"):
            raise ProxyError("the balancer speaks version 1 of the PROXY protocol: have it send version 2")
        raise ProxyError(
            "no PROXY protocol header came: have the balancer send version 2, or mend [receive] proxy_from"
        )
    if len(received) < _FIXED.size:
        return None
    _, command, kind, length = _FIXED.unpack_from(received)
    size = _FIXED.size + length
    if size > MAX_HEADER_BYTES:
        raise ProxyError(
            f"the PROXY protocol header is over {MAX_HEADER_BYTES} bytes: have the balancer add less to it"
        )
    if command not in (_LOCAL, _PROXY):
        raise ProxyError("the PROXY protocol header has an unknown version or command")
    if len(received) < size:
        return None
    if command == _LOCAL:
        return Header(size, None)
    addresses = _ADDRESSES.get(kind)
    if addresses is None:
        raise ProxyError("the PROXY protocol header names no TCP client: have the balancer pass TCP on")
    if length < addresses.size:
        raise ProxyError("the PROXY protocol header is too short for its addresses")
    source, _, port, _ = addresses.unpack_from(received, _FIXED.size)
    address = ipaddress.ip_address(source)
    mapped = getattr(address, "ipv4_mapped", None)
    return Header(size, (str(mapped or address), port))
