"""The files a configuration consists of: one, or every `*.toml` of a folder in the order of their names.

`load` reads them with `read` and joins them with `merge`: tables are merged, lists of tables appended. The same option
twice is a problem that names both places. Hidden files and backups (`.bak`) are not part of it.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from relaypacs.config.places import Location, Problem, line_numbers
from relaypacs.errors import ConfigError

_LONGEST_BYTES = 4 << 20
_MOST_FILES = 1000
_MENDS = {
    "Invalid value": 'text stands in straight quotation marks (name = "text"), yes and no are true and false',
    "Illegal character '\\n'": "a text ends on its line, with the quotation mark it began with",
    "Expected newline or end of document": "one `name = value` to a line, and text stands in quotation marks",
    "Expected ']]'": "write [[name]]",
    "Expected ']' at the end of a table": "write [name]",
    "Unclosed array": "a list has commas between its values and ends with ]",
    "Expected '=' after a key": "write name = value",
    "Unescaped '\\' in a string": "write \\\\ for each \\, or put the text between ' and '",
    "Invalid hex value": "write \\\\ for each \\, or put the text between ' and '",
    "Cannot overwrite a value": "that is set twice; keep one",
}
"""What to do about what the TOML parser says, by how that begins."""
_POSITION = re.compile(r" \(at line (\d+), column (\d+)\)$")


@dataclass(frozen=True, slots=True)
class Source:
    """A file and the text it holds."""

    path: Path
    text: str


@dataclass
class Merged:
    """All files as one document: its tables, where each option stands (file, line), and what was said twice."""

    raw: dict[str, object] = field(default_factory=dict)
    places: dict[Location, tuple[str, int]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def files_of(path: Path) -> list[Path]:
    """The file itself, or the `*.toml` files of a folder by name. ConfigError if there is none."""
    if not path.is_dir():
        return [path]
    try:
        found = sorted(one for one in path.iterdir() if one.suffix == ".toml" and not one.name.startswith("."))
    except OSError as error:
        raise ConfigError([f"{path}: can't be read: {error.strerror}; give a folder this user may read"]) from None
    if not found:
        raise ConfigError([f"{path}: holds no *.toml file; put one there, or give a file with --config"])
    if len(found) > _MOST_FILES:
        raise ConfigError([f"{path}: holds over {_MOST_FILES} *.toml files, so is hardly a configuration"])
    return found


def read(path: Path) -> list[Source]:
    """What is at `path`: a file, or a folder of files. ConfigError with a sentence for each that can't be read."""
    sources, problems = [], []
    for one in files_of(path):
        try:
            sources.append(Source(one, _read(one)))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return sources


def digest(sources: Sequence[Source]) -> str:
    """What tells one set of files from another: names and texts, not folders or times (hexadecimal)."""
    whole = hashlib.sha256()
    for one in sources:
        for part in (one.path.name, one.text):
            content = part.encode("utf-8", "surrogateescape")
            whole.update(len(content).to_bytes(8, "big") + content)
    return whole.hexdigest()


def merge(sources: Sequence[Source]) -> Merged:
    """One document of all. ConfigError with every file that isn't TOML."""
    merged = Merged()
    problems = []
    for source in sources:
        try:
            raw = _parse(source)
        except ConfigError as error:
            problems += error.problems
        else:
            _add(merged, source, raw)
    if problems:
        raise ConfigError(problems)
    return merged


def _add(merged: Merged, source: Source, raw: dict[str, object]) -> None:
    file = str(source.path)
    lines = line_numbers(source.text)
    before = {name: len(value) for name, value in merged.raw.items() if isinstance(value, list)}
    for name, value in raw.items():
        if isinstance(value, list):  # given as an inline array its items stand where it does
            for number in range(len(value)):
                lines.setdefault((name, number), lines.get((name,), 0))
    # Before the new places are entered: what stands twice has its first place there.
    for name, value in raw.items():
        _join(merged, (name,), value, lines, file)
    for at, line in lines.items():
        shifted = at
        if len(at) > 1 and isinstance(at[1], int):
            shifted = (at[0], at[1] + before.get(str(at[0]), 0), *at[2:])
        merged.places.setdefault(shifted, (file, line))


def _join(merged: Merged, at: Location, value: object, lines: dict[Location, int], file: str) -> None:
    name = str(at[0])
    there = merged.raw.get(name)
    if there is None:
        merged.raw[name] = value
    elif isinstance(there, list) and isinstance(value, list):
        there.extend(value)
    elif isinstance(there, dict) and isinstance(value, dict):
        for option, one in value.items():
            if option in there:
                merged.problems.append(_twice(merged, (name, option), lines, file))
            else:
                there[option] = one
    else:
        merged.problems.append(_twice(merged, at, lines, file))


def _twice(merged: Merged, at: Location, lines: dict[Location, int], file: str) -> Problem:
    first, line = merged.places.get(at, merged.places.get(at[:1], ("another file", 0)))
    place = f"{first}:{line}" if line else first
    here = (file, lines.get(at, lines.get(at[:1], 0)))
    return Problem(at, f"stands in {place} already; keep one of them", here)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST_BYTES + 1)
    except OSError as error:
        raise ConfigError([f"{path}: can't be read: {error.strerror}; give an existing file with --config"]) from None
    if len(content) > _LONGEST_BYTES:
        raise ConfigError([f"{path}: is over {_LONGEST_BYTES >> 20} MiB, so hardly a configuration"])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError([f"{path}:{line}: isn't UTF-8; save the file as UTF-8"]) from None


def _parse(source: Source) -> dict[str, object]:
    path, text = source.path, source.text
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        said = str(error)
        position = _POSITION.search(said)
        line = int(position[1]) if position else len(text.splitlines())
        place = f"{path}:{line}:{position[2]}" if position else f"{path}:{line}"
        said = said[: position.start()] if position else said
        mend = next((f"; {mend}" for start, mend in _MENDS.items() if said.startswith(start)), "")
        raise ConfigError([f"{place}: isn't TOML: {said}{mend}"]) from None
    except RecursionError:
        raise ConfigError([f"{path}: isn't a configuration: nested too deep"]) from None
