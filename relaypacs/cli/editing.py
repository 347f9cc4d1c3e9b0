"""What the configuration's files become when an entry is added or removed; everything else stays as it stands.

Verbs that change the configuration ask here for a `Change`, which `writing` puts in its place. Pure but for reading the
files. What can't be done without touching more than the entry is a ConfigError that says to do it by hand.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relaypacs.config.files import Source, read
from relaypacs.config.places import Places, line_numbers
from relaypacs.config.problems import names_of, validate
from relaypacs.errors import ConfigError

_OURS = "# Added by `relaypacs "


@dataclass(frozen=True, slots=True)
class Change:
    """What a file is to become; `before` is None where it is new."""

    path: Path
    before: str | None
    after: str


def item_of(kind: str, options: dict[str, Any]) -> Any:
    """The `[[kind]]` of these options. ConfigError with everything that is wrong with them."""
    raw = {kind: [options]}
    good, problems = validate(raw)
    if problems:
        places = Places(names=names_of(raw))
        raise ConfigError([places.say(one).sentence for one in problems])
    return good[kind][0]


def appended(place: Path, kind: str, text: str) -> Change:
    """`text` (TOML tables) behind the last file of `place` that has a `[[kind]]`; else in a folder's `<kind>.toml`."""
    sources = read(place)
    holders = [one for one in sources if re.search(rf"^\s*\[\[\s*{kind}\s*\]\]", one.text, re.MULTILINE)]
    if place.is_dir() and not holders:
        holders = [one for one in sources if one.path.name == f"{kind}.toml"]
        if not holders:
            return Change(place / f"{kind}.toml", None, text.rstrip("\n") + "\n")
    source = (holders or sources)[-1]
    newline = "\r\n" if "\r\n" in source.text else "\n"
    joint = "" if source.text.endswith("\n") or not source.text else newline
    added = newline.join(["", *text.rstrip("\n").split("\n"), ""])
    return Change(source.path, source.text, source.text + joint + added)


def removed(place: Path, kind: str, number: int) -> Change:
    """Without item `number` (from 0, over all files) of `[[kind]]`. ConfigError where that has to be done by hand."""
    source, local = _holder(place, kind, number)
    return Change(source.path, source.text, _without(source, kind, local))


def removed_both(place: Path, one: tuple[str, int], other: tuple[str, int]) -> Change:
    """Without two items of different kinds (kind and number, as in `removed`). ConfigError unless one file has both."""
    source, local = _holder(place, *one)
    second, other_local = _holder(place, *other)
    if second.path != source.path:
        raise ConfigError(
            [f"the {one[0]} stands in {source.path} and the {other[0]} in {second.path}: remove that first"]
        )
    left = Source(source.path, _without(source, one[0], local))
    return Change(source.path, source.text, _without(left, other[0], other_local))


def stands_at(place: Path, kind: str, number: int) -> str:
    """File and line of item `number` of `[[kind]]` (`relaypacs.toml:14`), as far as they are known."""
    try:
        source, local = _holder(place, kind, number)
    except ConfigError:
        return "the environment"
    places = line_numbers(source.text)
    line = places.get((kind, local)) or places.get((kind,))
    return f"{source.path}:{line}" if line else str(source.path)


def _holder(place: Path, kind: str, number: int) -> tuple[Source, int]:
    """The file with item `number` (from 0, over all files), and its number there."""
    for source in read(place):
        count = _count(source, kind)
        if number < count:
            return source, number
        number -= count
    raise ConfigError([f"this {kind} comes from the environment, not from a file: change the variable"])


def _count(source: Source, kind: str) -> int:
    items = tomllib.loads(source.text).get(kind, [])
    return len(items) if isinstance(items, list) else 0


def _without(source: Source, kind: str, number: int) -> str:
    lines = source.text.splitlines(keepends=True)
    places = line_numbers(source.text)
    if (kind, number) not in places:
        raise ConfigError([f"{source.path}: this {kind} stands in an inline list; remove it by hand"])
    header = places[kind, number]
    # Where the next table begins that is not one of its own.
    others = [line for at, line in _headers(source.text, kind) if line > header and at != (kind, number)]
    end = min(others, default=len(lines) + 1)
    last = max(line for line in range(header, end) if _says_something(lines[line - 1]))
    first = header
    if first > 1 and lines[first - 2].startswith(_OURS):
        first -= 1
    if first > 1 and not lines[first - 2].strip() and (last == len(lines) or not lines[last].strip()):
        first -= 1
    return "".join(lines[: first - 1] + lines[last:])


def _headers(text: str, kind: str) -> Iterator[tuple[tuple[str, int], int]]:
    """Item and line of each table's header; those that are no `kind` are of item -1."""
    lines = text.splitlines()
    for at, line in line_numbers(text).items():
        if lines[line - 1].lstrip().startswith("["):
            own = len(at) > 1 and at[0] == kind and isinstance(at[1], int)
            yield (kind, int(at[1]) if own else -1), line


def _says_something(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")
