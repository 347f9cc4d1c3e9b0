"""The configurations a node has taken: numbered, each with its files as they were, the last fifty kept.

The supervisor records one when it starts and whenever it takes a new one; `relaypacs config history` and `rollback`
read them. They lie in `<state_dir>/config/NUMBER`, private to the node's user. The same files in a row are one version.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from relaypacs.config.files import Source, digest

KEPT = 50
_ABOUT = "version.json"
_FILES = "files"


@dataclass(frozen=True, slots=True)
class Version:
    """A configuration that was taken. `place`: the file or folder it came from; `taken_at`: seconds since the epoch."""

    number: int
    digest: str
    place: str
    taken_at: float
    folder: Path

    def sources(self) -> list[Source]:
        """Its files as they were, named as in `place`. OSError if they are gone."""
        files = sorted((self.folder / _FILES).iterdir())
        return [Source(one, one.read_bytes().decode("utf-8")) for one in files]


def versions(state_dir: Path) -> list[Version]:
    """Every version that is kept, the oldest first; what was not written to its end is left out."""
    found = []
    with contextlib.suppress(OSError):
        for folder in (state_dir / "config").iterdir():
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
                one = Version(int(folder.name), about["digest"], about["place"], float(about["taken_at"]), folder)
                found.append(one)
    return sorted(found, key=lambda one: one.number)


def record(state_dir: Path, sources: Sequence[Source], place: Path) -> int:
    """Keep these files as the newest version, unless they are it already; returns its number. OSError."""
    kept = versions(state_dir)
    whole = digest(sources)
    if kept and kept[-1].digest == whole:
        return kept[-1].number
    number = kept[-1].number if kept else 0
    while True:
        number += 1
        folder = state_dir / "config" / f"{number:06d}"
        try:
            folder.mkdir(parents=True, mode=0o700)
        except FileExistsError:
            continue
        break
    (folder / _FILES).mkdir()
    for one in sources:
        _write(folder / _FILES / one.path.name, one.text)
    about = {"digest": whole, "place": str(place), "taken_at": time.time()}
    draft = folder / f".{_ABOUT}"
    _write(draft, json.dumps(about))
    draft.rename(folder / _ABOUT)  # with it the version is whole
    for old in kept[: -(KEPT - 1)]:
        shutil.rmtree(old.folder, ignore_errors=True)
    return number


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
