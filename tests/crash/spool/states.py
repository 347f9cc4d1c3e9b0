"""What a disk may hold after a power cut at any point of a trace.

A write that was not synced afterwards may be there or not, unit by unit (512 bytes or a page), in any order, in any of
the versions it had; rarely it is garbage. After a failed sync no later sync vouches for those units. A name's change is
certain once the folders concerned were synced; until then any prefix or any subset of the changes may be there.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tests.crash.spool.recording import Op


@dataclass
class _File:
    """A file's durable bytes, and per unit what was written since, oldest first."""

    durable: bytearray = field(default_factory=bytearray)
    units: dict[int, list[bytes]] = field(default_factory=dict)
    doomed: set[int] = field(default_factory=set)
    """Units whose write-back failed: only a newer write makes them whole again."""


class DiskModel:
    """Applies a trace op by op; `crash` draws a state."""

    def __init__(self, unit: int) -> None:
        self.unit = unit
        self._files: dict[int, _File] = {}
        self._names: dict[str, int] = {}
        self._changes: list[tuple[Op, set[str]]] = []

    def apply(self, op: Op) -> None:
        """The next call of the trace."""
        if op.what == "create":
            self._files[op.file] = _File()
        if op.what in {"create", "rename", "unlink"}:
            self._changes.append((op, {_folder(name) for name in (op.path, op.new) if name}))
        elif op.what == "write":
            self._write(self._files[op.file], op.at, op.data)
        elif op.what == "sync":
            self._sync(self._files[op.file])
        elif op.what == "sync_failed":
            file = self._files[op.file]
            file.doomed |= file.units.keys()
        elif op.what == "sync_folder":
            for _, waiting in self._changes:
                waiting.discard(op.path)
            while self._changes and not self._changes[0][1]:
                _apply(self._names, self._changes.pop(0)[0])

    def _write(self, file: _File, at: int, data: bytes) -> None:
        for start in range(0, len(data), self.unit):
            number, odd = divmod(at + start, self.unit)
            assert odd == 0
            file.units.setdefault(number, []).append(data[start : start + self.unit])
            file.doomed.discard(number)

    def _sync(self, file: _File) -> None:
        for number in [number for number in file.units if number not in file.doomed]:
            _put(file.durable, number * self.unit, file.units.pop(number)[-1])

    @property
    def uncertain(self) -> int:
        """How many units and names a crash now could find either way."""
        return sum(len(file.units) for file in self._files.values()) + len(self._changes)

    def crash(self, draw: random.Random) -> Mapping[str, bytes]:
        """A state: name -> bytes."""
        names = dict(self._names)
        how = draw.random()
        cut = draw.randrange(len(self._changes) + 1)
        for index, (op, waiting) in enumerate(self._changes):
            if not waiting or (index < cut if how < 0.6 else draw.random() < 0.5):
                _apply(names, op)
        mode = draw.choice(["none", "all", "most", "few", "half", "half", "prefix", "suffix"])
        return {name: self._bytes(self._files[file], mode, draw) for name, file in names.items()}

    def _bytes(self, file: _File, mode: str, draw: random.Random) -> bytes:
        if not file.units:
            return bytes(file.durable)
        image = bytearray(file.durable)
        numbers = sorted(file.units)
        if mode == "all":
            chosen = numbers
        elif mode == "none":
            chosen = []
        elif mode in {"prefix", "suffix"}:
            cut = draw.randrange(len(numbers) + 1)
            chosen = numbers[:cut] if mode == "prefix" else numbers[cut:]
        else:
            odds = {"most": 0.9, "few": 0.1, "half": 0.5}[mode]
            chosen = [number for number in numbers if draw.random() < odds]
        garbage = draw.random() < 0.1
        for number in chosen:
            versions = file.units[number]
            content = versions[-1] if draw.random() < 0.7 else draw.choice(versions)
            if garbage and draw.random() < 0.2:
                content = draw.randbytes(len(content))
            _put(image, number * self.unit, content)
        if draw.random() < 0.2:
            # The file's length got there without its last units.
            last = numbers[-1]
            _put(image, last * self.unit + len(file.units[last][-1]), b"")
        return bytes(image)


def _put(image: bytearray, at: int, content: bytes) -> None:
    if at > len(image):
        image.extend(bytes(at - len(image)))
    image[at : at + len(content)] = content


def _folder(name: str) -> str:
    return name.rsplit("/", 1)[0]


def _apply(names: dict[str, int], op: Op) -> None:
    if op.what == "create":
        names[op.path] = op.file
    elif op.what == "rename":
        names.pop(op.path, None)
        names[op.new] = op.file
    else:
        names.pop(op.path, None)


def flips(image: bytes, places: Mapping[int, tuple[int, int]], draw: random.Random) -> Iterator[tuple[int, bytes]]:
    """`image` with one byte changed somewhere in each of a few of the records at `places`: (number, bytes)."""
    for number in draw.sample(sorted(places), min(2, len(places))):
        at = draw.randrange(*places[number])
        changed = bytearray(image)
        changed[at] ^= 1 << draw.randrange(8)
        yield number, bytes(changed)
