"""Changed files put in their place in one step each, kept beside it as they were, and put back if a node refuses.

Verbs that change the configuration call `write` (or `replace`, for whole files) and then `finish` with what was done.
`write` loads the whole with the change first: what does not load as exactly the configuration that was meant is not
written. Of each file the last ten copies are kept; others' files are never touched.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from relaypacs.cli import reloading, say
from relaypacs.cli.editing import Change
from relaypacs.config import Config
from relaypacs.config.files import Source, read
from relaypacs.config.load import load_sources
from relaypacs.errors import ConfigError

KEPT_COPIES = 10
"""Copies (`.bak`) of a file that are kept beside it; older ones go. `config history` keeps what a node has taken."""
_COPY = re.compile(r"\.(\d{8}T\d{6}Z)(?:-(\d+))?\.bak")
_BOM = b"\xef\xbb\xbf"
_OWNER_ONLY = 0o600


@dataclass(frozen=True, slots=True)
class Written:
    """A file that holds `text` now; `kept` is where it is kept as it was, None where it is new. `text` None: it is
    gone (kept all the same)."""

    path: Path
    text: str | None
    kept: Path | None


def write(change: Change, place: Path, environ: Mapping[str, str], meant: Config) -> Written:
    """Write it if `place` then loads as `meant`. ConfigError with every reason, and nothing is changed."""
    path = change.path.resolve()  # a link stays one
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
    return replace(change.path, change.after)


def replace(path: Path, text: str) -> Written:
    """Let the file hold this text, in one step."""
    path = path.resolve()
    there = path.exists()
    draft = _draft(path, text, bom=there and path.read_bytes().startswith(_BOM))
    try:
        kept = None
        if there:
            status = path.stat()
            shutil.copymode(path, draft)
            with suppress(PermissionError):  # not root: it is ours anyway
                os.chown(draft, status.st_uid, status.st_gid)
            kept = _keep(path)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return Written(path, text, kept)


def put_away(path: Path) -> Written:
    """Take a file out of the configuration: only its copy stays."""
    kept = _keep(path)
    path.unlink()
    return Written(path, None, kept)


def finish(done: Sequence[Written], place: Path, run_dir: Path) -> int:
    """Say what was done, and have a running node take it; 1 if it refuses, and every file is as it was again."""
    for one in done:
        say.tell(_said(one))
    answer = reloading.after_change(run_dir, place)
    if answer is reloading.Answer.REFUSED:
        if other := [str(one.path) for one in done if not _is_still(one)]:
            say.tell(f"{', '.join(other)} was changed meanwhile, so nothing was put back: mend it there.")
        else:
            for one in done:
                _put_back(one)
            say.tell("The node refused it, so what it reads was put back as it was; mend what it names and try again.")
            reloading.after_change(run_dir, place, aloud=False)
    return 1 if answer in (reloading.Answer.REFUSED, reloading.Answer.SILENT) else 0


def _said(one: Written) -> str:
    if one.text is None:
        return f"{one.path} was no part of it: it is {one.kept} now."
    return f"Written to {one.path}{f'; it was kept as {one.kept}' if one.kept else ''}."


def _is_still(one: Written) -> bool:
    return (_text(one.path) if one.path.exists() else None) == one.text


def _put_back(one: Written) -> None:
    if one.kept is None:
        one.path.unlink()
    else:
        if one.path.exists():  # the copy is its maker's; the file stays its owner's
            status = one.path.stat()
            with suppress(PermissionError):
                os.chown(one.kept, status.st_uid, status.st_gid)
        one.kept.replace(one.path)
    _sync_folder(one.path.parent)


def _keep(path: Path) -> Path:
    """Copy the file beside itself, under a name that is free; returns that. Older copies than the last ten go."""
    when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    # Behind those of the same second, also where the first of these have gone.
    latest = max((number for other, number, _ in _copies(path) if other == when), default=-1)
    for number in itertools.count(latest + 1):
        kept = path.with_name(f"{path.name}.{when}{f'-{number}' if number else ''}.bak")
        with suppress(FileExistsError):
            kept.touch(mode=_OWNER_ONLY, exist_ok=False)
            shutil.copy2(path, kept)
            break
    for *_, old in _copies(path)[:-KEPT_COPIES]:
        old.unlink(missing_ok=True)
    return kept


def _copies(path: Path) -> list[tuple[str, int, Path]]:
    """The copies of a file that `_keep` made, the oldest first: second, number in it, where it is."""
    found = []
    for one in path.parent.iterdir():
        match = _COPY.fullmatch(one.name.removeprefix(path.name)) if one.name.startswith(path.name) else None
        if match:
            found.append((match[1], int(match[2] or 0), one))
    return sorted(found)


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


def _draft(path: Path, text: str, *, bom: bool) -> Path:
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)
    with os.fdopen(fd, "wb") as file:
        file.write((_BOM if bom else b"") + text.encode())
        file.flush()
        os.fsync(file.fileno())
    return Path(name)


def _text(path: Path) -> str:
    return read(path)[0].text


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
