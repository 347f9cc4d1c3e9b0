"""Format v1 of a spool segment, as functions over bytes (docs/spool-format.md is the same in prose).

A segment is a POSIX pax tar. A record starts on a page (4096 bytes): pax header, its body, the entry's ustar header
and the DICOM Part 10 head share its first page with the dataset's first bytes; the rest of the dataset follows, then
a pad entry up to the next page. The page behind the newest record is the end mark, which every `tar` stops at. Called
by the writer (`begin_header` … `pad`), by `recover` (`decode_header`, `is_end`) and by nothing else. A page that fails
its checksum decodes to None: this module decides what is valid, `recover` what that means.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from zlib import adler32

from crc32c import crc32c

from relaypacs.errors import SpoolError

BLOCK = 512
PAGE = 4096
HEADER_BYTES = 3072
"""From a record's start to its file: pax header (512), pax body (2048), ustar header (512)."""
ENTRY_PREFIX = 16
"""Digits of the generation that an entry's name starts with: segments extracted into one folder don't collide."""
HEAD_LIMIT = PAGE - HEADER_BYTES
"""Most bytes of preamble and File Meta: they end within the record's first page."""
_BODY = 2048
_BODY_AT = BLOCK
_ENTRY_AT = BLOCK + _BODY

# The body's first pax record overrides the entry's size (a ustar size ends at 8 GiB); the second is a comment, the
# one keyword that every tar passes over in silence. All that is only known at commit has a fixed width and place.
_COMMENT = "2019 comment=relaypacs/1 "
_FIXED_AT = 29 + len(_COMMENT)
_JSON_AT = _FIXED_AT + len("prev=00000000 chain=00000000 crc=00000000 length= head=0000 ") + 20
_JSON_LIMIT = _BODY - _JSON_AT - 1
_MEMBERS_LIMIT = _JSON_LIMIT - len('{"generation":"","number":,"since":,}') - 32 - 2 * 9
_FIXED_PATTERN = re.compile(
    rb"29 size=(\d{20})\n2019 comment=relaypacs/1 "
    rb"prev=([0-9a-f]{8}) chain=([0-9a-f]{8}) crc=([0-9a-f]{8}) length=(\d{20}) head=(\d{4}) "
)
_CHAIN_IN_PAGE = _BODY_AT + _FIXED_AT + len(b"prev=00000000 chain=")
_NO_CRC = b"00000000"
_USTAR_SIZE_LIMIT = 8 << 30


def align(value: int, unit: int) -> int:
    """`value` rounded up to a multiple of `unit`, a power of two."""
    return (value + unit - 1) & -unit


_USTAR_MTIME_MOST = 0o77777777777
_MODE_AND_OWNER = "0000600\0" + "0000000\0" * 2
_MAGIC_AND_REST = "ustar\x0000".rjust(108, "\0").ljust(355, "\0")
_CONSTANT_SUM = sum(f"{_MODE_AND_OWNER}{_MAGIC_AND_REST}        ".encode("ascii"))


def _ustar(name: str, size: int, typeflag: str, mtime: int = 0) -> str:
    """A ustar header block (POSIX.1-1988) in ASCII. `size` of 8 GiB and more is left to the pax record."""
    numbers = f"{size if size < _USTAR_SIZE_LIMIT else 0:011o}\0{max(0, mtime) & _USTAR_MTIME_MOST:011o}\0"
    # The checksum is over all bytes, itself as blanks; most of them are the same in every header. The lower half of
    # an Adler-32 (RFC 1950) is the sum of some bytes and 1: these come to less than its modulus of 65521.
    checksum = _CONSTANT_SUM + (adler32(f"{name}{numbers}{typeflag}".encode("ascii")) & 0xFFFF) - 1
    padded = name.ljust(100, "\0")
    return f"{padded}{_MODE_AND_OWNER}{numbers}{checksum:06o}\0 {typeflag}{_MAGIC_AND_REST}"


_PAX_BYTES = _ustar("PaxHeaders/record", _BODY, "x").encode("ascii")
# What `end_header` puts around what it knows: the page's text up to the entry's block, and that block.
_SAID = (
    b"29 size=%020d\n2019 comment=relaypacs/1 prev=%08x chain=00000000 crc=%08x length=%020d head=%04d "
    b'{"generation":"%b","number":%d,"since":%d,%b}'
)
_BLANKS = b" " * (_BODY - 1) + b"\n"
_ZEROS = bytes(100)
_OWNER = _MODE_AND_OWNER.encode("ascii")
_ENTRY_REST = f"\0 0{_MAGIC_AND_REST}".encode("ascii")
_ENTRY_SUM = _CONSTANT_SUM + ord("0") - 1


class Begun(NamedTuple):
    """A record's header as far as it is known before its first dataset byte; `end_header` makes it whole."""

    entry: bytes
    mtime: int
    members: bytes
    head: bytes

    @property
    def payload_offset(self) -> int:
        """Where the payload starts, in bytes from the record's start."""
        return HEADER_BYTES + len(self.head)


def begin_header(entry: bytes, mtime: float, members: str, head: bytes) -> Begun:
    """Prepare a record: an entry named `entry` (of `entry_name`), holding `head` and then the payload.

    `members` is what the record says, as the inside of a JSON object in ASCII; `mtime` is in seconds. SpoolError
    where they exceed the page; ValueError or OverflowError for a time that is no number.
    """
    if len(members) > _MEMBERS_LIMIT or len(head) > HEAD_LIMIT:
        raise SpoolError("the object's identifiers are longer than any legal ones and don't fit into a spool record")
    return Begun(entry, max(0, int(mtime)), members.encode("ascii"), head)


def entry_name(entry: str, extension: str) -> bytes:
    """How a record's entry is named, behind its generation and number: after `entry`, in letters that harm nowhere."""
    return (f"{re.sub(r'[^A-Za-z0-9-]', '_', entry[:48]) or '_'}.{extension}").encode("ascii")


def end_header(
    begun: Begun, *, generation: bytes, number: int, since: int, previous: int, payload_length: int, payload_crc32c: int
) -> tuple[bytearray, int]:
    """The header's bytes (`begun.payload_offset` of them) and their chain CRC, as record `number` of `generation`.

    `since` is the number of the first record made durable together with this one, `previous` the chain CRC of the
    record before (0 for the first).
    """
    entry, mtime, members, head = begun
    head_length = len(head)
    size = head_length + payload_length
    name = b"%b-%06d-%b" % (generation[:ENTRY_PREFIX], number, entry)
    numbers = b"%011o\0%011o\0" % (size if size < _USTAR_SIZE_LIMIT else 0, mtime & _USTAR_MTIME_MOST)
    # As in `_ustar`, which says the same in general.
    checksum = _ENTRY_SUM + (adler32(numbers, adler32(name)) & 0xFFFF)
    said = _SAID % (
        size,
        previous,
        payload_crc32c,
        payload_length,
        head_length,
        generation,
        number,
        since,
        members,
    )
    blanks, zeros = _BLANKS[len(said) :], _ZEROS[len(name) :]
    block = (name, zeros, _OWNER, numbers, b"%06o" % checksum, _ENTRY_REST)
    header = bytearray().join((_PAX_BYTES, said, blanks, *block, head))
    chain = crc32c(header, previous, False)
    header[_CHAIN_IN_PAGE : _CHAIN_IN_PAGE + 8] = b"%08x" % chain
    return header, chain


@dataclass(frozen=True, slots=True)
class Header:
    """A header that passed its own checksum. `fields` holds the members it was given, and no more.

    `since`: the first record that was made durable together with this one, so all before it were durable by then.
    """

    generation: str
    number: int
    since: int
    previous: int
    chain: int
    payload_crc32c: int
    payload_length: int
    head_length: int
    fields: Mapping[str, Any]

    @property
    def file_length(self) -> int:
        """Bytes of the entry: head and payload."""
        return self.head_length + self.payload_length

    @property
    def length(self) -> int:
        """Bytes from this record's start to the next one's."""
        return align(HEADER_BYTES + self.file_length, PAGE)


def decode_header(page: bytes) -> Header | None:
    """The header at the start of `page` (a record's first 4096 bytes), or None where there is no valid one."""
    found = _FIXED_PATTERN.match(page, _BODY_AT)
    if found is None or len(page) < PAGE:
        return None
    size, length, head = int(found[1]), int(found[5]), int(found[6])
    previous, chain = int(found[2], 16), int(found[3], 16)
    if head > HEAD_LIMIT or size != head + length:
        return None
    blank = b"".join((page[:_CHAIN_IN_PAGE], _NO_CRC, page[_CHAIN_IN_PAGE + 8 : HEADER_BYTES + head]))
    if crc32c(blank, previous) != chain:
        return None
    try:
        fields = json.loads(page[_BODY_AT + _JSON_AT : _ENTRY_AT])
        generation, number, since = fields.pop("generation"), fields.pop("number"), fields.pop("since")
    except (ValueError, KeyError, AttributeError):
        return None
    if not isinstance(generation, str) or not isinstance(number, int) or not isinstance(since, int):
        return None
    return Header(generation, number, since, previous, chain, int(found[4], 16), length, head, fields)


_FILLER = b" comment=relaypacs pad "


def _pad_entry(gap: int) -> bytes:
    """A pax global header that fills `gap` bytes, a multiple of 512: silent in every tar, and bound to no file."""
    if gap == 0:
        return b""
    body = gap - BLOCK
    text = b"%d%s" % (body, _FILLER) if body else b""
    filled = text + b" " * (body - len(text) - 1) + b"\n" if body else b""
    return _ustar("PaxHeaders/pad", body, "g").encode("ascii") + filled


_PADS = tuple(_pad_entry(gap) for gap in range(0, PAGE, BLOCK))


def pad(end: int) -> bytes:
    """What follows a record's last byte at `end` (bytes from its page-aligned start) up to the next page."""
    to_block = -end % BLOCK
    return bytes(to_block) + _PADS[(-end % PAGE) // BLOCK]


_END_CRC = b'"crc":"00000000"'


def end_mark(generation: str, mtime: float, *, records: int | None = None, chain: int = 0) -> bytes:
    """The page behind the newest record, where `tar` stops: a small entry, then zeros.

    `records` (their number) and `chain` (the last one's) are given when the segment is sealed and gets no more.
    """
    say = {"format": "relaypacs/1", "generation": generation, "end": "open" if records is None else "sealed"}
    more = "" if records is None else f',"records":{records},"chain":"{chain:08x}"'
    text = json.dumps(say, separators=(",", ":"))[:-1] + more + ',"crc":"00000000"}'
    block = _ustar(f"{generation[:ENTRY_PREFIX]}-end.json", BLOCK, "0", int(mtime))
    blank = f"{block}{text.ljust(BLOCK - 1)}\n".encode("ascii")
    return blank.replace(_END_CRC, b'"crc":"%08x"' % crc32c(blank)).ljust(PAGE, b"\0")


@dataclass(frozen=True, slots=True)
class EndMark:
    """A valid end mark. `records` is None while the segment is open."""

    generation: str
    records: int | None


def decode_end(page: bytes) -> EndMark | None:
    """The end mark at the start of `page`, or None where there is no valid one."""
    found = re.search(rb'"crc":"([0-9a-f]{8})"', page[BLOCK : 2 * BLOCK])
    if found is None:
        return None
    blank = page[: 2 * BLOCK].replace(found[0], _END_CRC)
    if crc32c(blank) != int(found[1], 16):
        return None
    try:
        said = json.loads(blank[BLOCK:])
        return EndMark(said["generation"], said.get("records"))
    except (ValueError, KeyError, AttributeError, TypeError):
        return None
