"""Sample files of processes that have ended. What they counted stays, in few files however often one was started anew.

prometheus-client keeps files for each process, by its number: `counter_PID.db`, `gauge_MODE_PID.db`. A scrape reads all
of them, so those of the dead are added up into one of each kind (of process 0, which there never is) once there are
many; their `live` gauges, which tell of nothing any more, go. Called by `metrics.NodeEvents`, by one thread at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client.mmap_dict import MmapedDict

MOST = 32
"""Dead processes whose files are left as they are."""
_NOBODY = "0"
_File: Any = MmapedDict  # it has no types
_LIVE = "gauge_live"
_ADDED = frozenset({"counter", "histogram"})
_LATEST = frozenset({"gauge_mostrecent"})


def counting(folder: Path) -> Iterator[Path]:
    """The files that count for something."""
    ended = _ended()
    for file in sorted(folder.glob("*.db")):
        kind, pid = _whose(file)
        if not (kind.startswith(_LIVE) and ended(pid)) and file.stat().st_size > 0:  # 0: a process is just making it
            yield file


def fold(folder: Path, most: int = MOST) -> None:
    """Add up the files of dead processes, if there are more than `most`."""
    ended = _ended()
    found: dict[str, list[Path]] = defaultdict(list)
    gone = set()
    for file in folder.glob("*.db"):
        kind, pid = _whose(file)
        if ended(pid):
            found[kind].append(file)
            gone.add(pid)
    if len(gone) <= most:
        return
    for kind, files in found.items():
        if kind in _ADDED | _LATEST:
            _add_up(folder, kind, files)
        elif kind.startswith(_LIVE):
            for file in files:
                file.unlink()


def _add_up(folder: Path, kind: str, files: list[Path]) -> None:
    sums: dict[str, tuple[float, float]] = {}
    for file in files:
        if not file.stat().st_size:
            continue
        for key, value, at, _ in _File.read_all_values_from_file(str(file)):
            before, seen_at = sums.get(key, (0.0, 0.0))
            if kind in _ADDED:
                sums[key] = before + value, 0.0
            elif at >= seen_at:
                sums[key] = value, at
    draft, target = folder / f"{kind}.new", folder / f"{kind}_{_NOBODY}.db"
    draft.unlink(missing_ok=True)
    made = _File(str(draft))
    for key, (value, at) in sums.items():
        made.write_value(key, value, at)
    made.close()
    draft.replace(target)
    for file in files:
        if file != target:
            file.unlink()


def _whose(file: Path) -> tuple[str, str]:
    kind, _, pid = file.stem.rpartition("_")
    return kind, pid


def _ended() -> Callable[[str], bool]:
    """Whether the process of a number is none of this node (any more): numbers are given again to others' processes."""
    mine = _program("self")
    return lambda pid: _program(pid) != mine


def _program(pid: str) -> list[bytes]:
    try:
        return Path("/proc", pid, "cmdline").read_bytes().split(b"\0")[:2]
    except OSError:
        return []
