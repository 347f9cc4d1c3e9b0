"""Where an option stands, for people: `relaypacs.toml:14: destination[2] "pacs" port`.

A location is a tuple as pydantic's: `("destination", 1, "port")`, counted from 0; people count from 1. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

Location = tuple[str | int, ...]

_BARE = r'(?:[A-Za-z0-9_-]+|"[^"]*"|\'[^\']*\')'
_PATH = rf"{_BARE}(?:\s*\.\s*{_BARE})*"
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_PATH})\s*\]\]?")
_ASSIGNMENT = re.compile(rf"\s*({_PATH})\s*=")


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that has to be mended: where, and one sentence."""

    at: Location
    text: str
    here: tuple[str, int] | None = None
    """File and line (0: none), where they can't be found by `at`."""


@dataclass(frozen=True, slots=True)
class Said:
    """A problem as people read it; `order` sorts by file and line."""

    sentence: str
    order: tuple[str, int]


@dataclass
class Places:
    """Turns locations into text. `lines`: file and line of each; `variables`: options that the environment set.

    `file`: where options stand that are in no line.
    """

    file: str = ""
    lines: Mapping[Location, tuple[str, int]] = field(default_factory=dict)
    variables: Mapping[Location, str] = field(default_factory=dict)
    names: Mapping[Location, str] = field(default_factory=dict)
    """What `("destination", 1)` is called, where it has a name."""

    def say(self, problem: Problem) -> Said:
        """The problem with its place in front."""
        variable = next((self.variables[at] for at in _enclosing(problem.at) if at in self.variables), "")
        option = self._option(problem.at)
        if variable:
            whole_list = problem.at[:1] in self.variables
            return Said(f"environment {variable}: {f'{option}: ' if whole_list else ''}{problem.text}", ("", 0))
        file, line = problem.here or next(
            (self.lines[at] for at in _enclosing(problem.at) if at in self.lines), ("", 0)
        )
        place = f"{file}:{line}: " if line else f"{self.file}: " if self.file and problem.at else ""
        return Said(f"{place}{option}: {problem.text}" if option else problem.text, (file, line))

    def _option(self, at: Location) -> str:
        text = ""
        for position, part in enumerate(at):
            if isinstance(part, int):
                name = self.names.get(at[: position + 1], "")
                text += f"[{part + 1}]" + (f' "{name}"' if name else "")
            elif position and not (isinstance(at[position - 1], int) or position > 1):
                text = f"[{text}] {part}"
            else:
                text += f" {part}" if text else part
        return text


def _enclosing(at: Location) -> Iterator[Location]:
    """The location itself, then what it stands in."""
    return (at[:length] for length in range(len(at), 0, -1))


def line_numbers(text: str) -> dict[Location, int]:
    """The line (from 1) of each table and key of a TOML text, as far as a glance at its line beginnings tells."""
    lines: dict[Location, int] = {}
    table: Location = ()
    counts: dict[str, int] = {}
    for number, line in _outside_long_strings(text):
        header, assignment = _HEADER.match(line), _ASSIGNMENT.match(line)
        if header:
            names = _split(header[2])
            if header[1] == "[[":
                counts[names[0]] = counts.get(names[0], -1) + 1
            # `[rule.tags]` belongs to the last `[[rule]]`.
            index: Location = (counts[names[0]],) if names[0] in counts else ()
            table = (names[0], *index, *names[1:])
            lines.setdefault(table, number)
            lines.setdefault((names[0],), number)
        elif assignment:
            lines.setdefault((*table, *_split(assignment[1])), number)
    return lines


def _split(path: str) -> list[str]:
    return [part.strip("\"'") for part in re.findall(_BARE, path)]


def _outside_long_strings(text: str) -> Iterator[tuple[int, str]]:
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        if not inside:
            yield number, line
        if (line.count('"""') + line.count("'''")) % 2:
            inside = not inside
