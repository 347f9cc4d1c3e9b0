"""Changes of the configuration's files that leave everything else as it stands: an entry appended, an entry removed.

`change` is what one file becomes; `write` loads the whole with it before it takes the file's place, in one step, and
keeps the file as it was beside it. What does not load as exactly the configuration that was meant is not written.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relaypacs.cli import reloading, say
from relaypacs.config import Config
from relaypacs.config.files import Source, read
from relaypacs.config.load import load_sources
from relaypacs.config.places import Places, line_numbers
from relaypacs.config.problems import names_of, validate
from relaypacs.errors import ConfigError

_BOM = b"\xef\xbb\xbf"
_OURS = "# Added by `relaypacs "
_OWNER_ONLY = 0o600


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
    for source in read(place):
        count = _count(source, kind)
        if number < count:
            return Change(source.path, source.text, _without(source, kind, number))
        number -= count
    raise ConfigError([f"this {kind} comes from the environment, not from a file: change the variable"])


def write(change: Change, place: Path, environ: Mapping[str, str], meant: Config) -> Path | None:
    """Write it if `place` then loads as `meant`. Returns where the file as it was is kept; None if it is new.

    ConfigError with every reason, and nothing is changed.
    """
    path = change.path.resolve()  # a link stays one
    draft = _draft(path, change)
    try:
        sources = [one for one in read(place) if one.path != change.path]
        if not path.exists() and change.before is not None:
            raise ConfigError([_meanwhile(path)])
        sources = sorted([*sources, Source(change.path, change.after)], key=lambda one: one.path)
        try:
            loaded = load_sources(sources, environ, place=str(place), secrets=False)
        except ConfigError as wrong:
            raise ConfigError([f"with this change it would not load: {one}" for one in wrong.problems]) from None
        if _sorted(loaded) != _sorted(meant):
            raise ConfigError([f"{path} can't be changed by a command: write it by hand"])
        if (_text(path) if path.exists() else None) != change.before:
            raise ConfigError([_meanwhile(path)])
        kept = None
        if change.before is not None:
            status = path.stat()
            shutil.copymode(path, draft)
            with suppress(PermissionError):  # not root: it is ours anyway
                os.chown(draft, status.st_uid, status.st_gid)
            kept = keep(path)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return kept


def replace(path: Path, text: str) -> Path | None:
    """Let the file hold this text, in one step. Returns where it is kept as it was; None if it is new."""
    path = path.resolve()
    there = path.exists()
    draft = _draft(path, Change(path, "" if there else None, text))
    try:
        kept = keep(path) if there else None
        if there:
            shutil.copymode(path, draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return kept


def keep(path: Path) -> Path:
    """Copy the file beside itself, under a name that is free; returns that."""
    when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for number in itertools.count():
        kept = path.with_name(f"{path.name}.{when}{f'-{number}' if number else ''}.bak")
        with suppress(FileExistsError):
            kept.touch(mode=_OWNER_ONLY, exist_ok=False)
            shutil.copy2(path, kept)
            return kept
    raise AssertionError


def finish(change: Change, kept: Path | None, place: Path, run_dir: Path) -> int:
    """Say what was done, and have a running node take it; 1 if it refuses."""
    say.tell(f"Written to {change.path}{f'; it was kept as {kept}' if kept else ''}.")
    return reloading.after_change(run_dir, place)


def _sorted(config: Config) -> Config:
    """With destinations and rules in one order: theirs means nothing, and depends on the file they are written to."""
    return config.model_copy(
        update={
            "destination": tuple(sorted(config.destination, key=lambda one: one.name)),
            "rule": tuple(sorted(config.rule, key=lambda one: one.name)),
        }
    )


def _meanwhile(path: Path) -> str:
    return f"{path} was changed meanwhile; nothing was written, run the command again"


def _draft(path: Path, change: Change) -> Path:
    bom = _BOM if change.before is not None and path.exists() and path.read_bytes().startswith(_BOM) else b""
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)
    with os.fdopen(fd, "wb") as file:
        file.write(bom + change.after.encode())
        file.flush()
        os.fsync(file.fileno())
    return Path(name)


def _text(path: Path) -> str:
    return read(path)[0].text


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


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
