"""Small MR images whose every byte is known, encoded by hand: nothing of the program under test makes or reads them."""

from __future__ import annotations

import hashlib
import random
import struct
from dataclasses import dataclass

from tests.peers.raw import EXPLICIT, MR, uid

SOP_CLASS, TRANSFER_SYNTAX = MR, EXPLICIT


@dataclass(frozen=True, slots=True)
class Image:
    """One instance. `digest` is the SHA-256 (hexadecimal) of its dataset, as it must arrive."""

    sop_instance_uid: str
    dataset: bytes
    digest: str


def new_uid(chance: random.Random) -> str:
    """A UID nobody has had (PS3.5 B.2)."""
    return f"2.25.{chance.getrandbits(120) | 1 << 119}"


def make_image(chance: random.Random, study: str, pixel_bytes: int) -> Image:
    """An image of `study` with random pixels."""
    sop_instance = new_uid(chance)
    dataset = b"".join(
        (
            _short(0x0008, 0x0016, b"UI", uid(SOP_CLASS)),
            _short(0x0008, 0x0018, b"UI", uid(sop_instance)),
            _short(0x0008, 0x0020, b"DA", b"20260102"),
            _short(0x0008, 0x0060, b"CS", b"MR"),
            _short(0x0010, 0x0020, b"LO", b"CRASH1"),
            _short(0x0020, 0x000D, b"UI", uid(study)),
            _short(0x0020, 0x000E, b"UI", uid(f"{study}.1")),
            _short(0x0028, 0x0010, b"US", struct.pack("<H", 128)),
            _long(0x7FE0, 0x0010, b"OW", chance.randbytes(pixel_bytes & ~1)),
        )
    )
    return Image(sop_instance, dataset, hashlib.sha256(dataset).hexdigest())


def _short(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", group, number, vr, len(value)) + value


def _long(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sHI", group, number, vr, 0, len(value)) + value
