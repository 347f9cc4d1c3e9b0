"""The spool broken on purpose: each mutant is a change to the text of its modules, in a copy of the package.

`copy_with` makes the copy; the simulator then runs over it in a process of its own and must find a violation.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import relaypacs


class Edit(NamedTuple):
    """In `module` (below `relaypacs/spool`), `old` becomes `new`."""

    module: str
    old: str
    new: str


_DATA = """\
    try:
        segment.write(behind, at)
    except OSError as problem:
        raise writer.failed(segment, problem) from problem
"""
_HEADER = """\
    try:
        segment.write(page, segment.offset)
        if writer.durable:
            segment.sync(end + PAGE)
    except OSError as problem:
        raise writer.retire(segment, problem) from problem
"""
_RETIRED = "        self._record_retired([segment])\n        return SpoolError(said)\n"
_CAREFUL = "    if end > segment.solid:\n        return None\n"
_SYNC = "        self._disk.sync(self._fd)\n        if end > self.solid:\n"
_SYNC_TWICE = """\
        try:
            self._disk.sync(self._fd)
        except OSError:
            self._disk.sync(self._fd)
        if end > self.solid:
"""
_FREED = """\
            self._disk.sync_folder(path.parent)
            self._disk.unlink(retired)
"""
_OPENED = "        segment = Segment(disk, fd, path, generation, now)\n"
_MARKED = "        segment.write((segment.end_mark,), 0)\n"

MUTANTS: dict[str, tuple[Edit, ...]] = {
    "no generation check": (Edit("recover.py", "if header.generation != here.generation:", "if False:"),),
    "no sync before publish": (Edit("reader.py", "            self._disk.sync(file.fd)\n", ""),),
    "header before data": (Edit("commit.py", _DATA + _HEADER, _HEADER + _DATA),),
    "no directory sync": (Edit("segment.py", "            disk.sync_folder(folder / SEGMENTS)\n", ""),),
    "truncating at the first bad record": (
        Edit(
            "recover.py",
            "resume, durable = find_successor(read_at, reached, size=size)",
            "resume, durable = None, False",
        ),
    ),
    "no sync before the answer": (Edit("commit.py", "            segment.sync(end + PAGE)\n", "            pass\n"),),
    "no sync before a group's answers": (Edit("commit.py", "            segment.sync(end)\n", "            pass\n"),),
    "a group's records claim that those before were durable": (
        Edit(
            "commit.py",
            "            since=segment.number,\n",
            "            since=number,\n",
        ),
    ),
    "the last group is cut at its first bad record": (
        Edit("recover.py", "if resume is not None and look_behind:", "if False:"),
    ),
    "a group of which a write may lack space is written at once": (
        Edit("commit.py", _CAREFUL, _CAREFUL.replace("end > segment.solid", "False")),
        Edit("commit.py", "writer.retire(segment, problem))", "writer.failed(segment, problem))"),
    ),
    "a failed sync is tried again": (Edit("segment.py", _SYNC, _SYNC_TWICE),),
    "a failed segment is neither marked nor proved": (
        Edit("writer.py", "        segment.unmark()\n", ""),
        Edit(
            "writer.py",
            _RETIRED,
            _RETIRED.replace("self._record_retired([segment])", "segment._disk.close(segment._fd)"),
        ),
        Edit("reader.py", "            self._disk.forget(file.fd, start, end - start)\n", ""),
    ),
    "freed without a directory sync": (Edit("reader.py", _FREED, _FREED.split("\n", 1)[1]),),
    "written before it is renamed durably": (Edit("segment.py", _OPENED, _OPENED + _MARKED),),
    "payload not verified": (Edit("recover.py", "    if verify_payload or event:\n", "    if event:\n"),),
    "padding not verified": (Edit("recover.py", "!= pad(end):", "!= pad(end) and False:"),),
}


def copy_with(edits: tuple[Edit, ...], folder: Path) -> Path:
    """A copy of the package below `folder` with the edits made; AssertionError if a text isn't there exactly once."""
    source = Path(relaypacs.__file__).parent
    copy = folder / "relaypacs"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for edit in edits:
        module = copy / "spool" / edit.module
        text = module.read_text()
        assert text.count(edit.old) == 1, f"{edit.module} has changed: the mutant must follow"
        module.write_text(text.replace(edit.old, edit.new))
    return copy
