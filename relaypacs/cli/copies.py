"""Reading what is kept, for people: a study out to files, everything again to see that it is still what it was.

An instance is read from staging, or from this node's spool while it is only there, and compared with the digest that
intake computed. Beside a live node a segment may be freed and reused meanwhile: the digest tells.
"""

from __future__ import annotations

import io
import re
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from relaypacs.cli import say
from relaypacs.cli.noted import note
from relaypacs.config import Config
from relaypacs.errors import ConfigError, DigestMismatch, ObjectMissing, RelayPacsError, SegmentGone, StagingDown
from relaypacs.intake.arrival import digest_of
from relaypacs.jobs.audit_rows import MINOR, SUCCESS
from relaypacs.jobs.copies import Copy
from relaypacs.jobs.store import JobStore
from relaypacs.spool.reader import SpoolReader
from relaypacs.staging.protocol import Staging

_PAGE = 200
_PROGRESS_SECONDS = 2.0
_MOST_SHOWN = 20
_UID = re.compile(r"[0-9.]{1,64}")
Write = Callable[[str, memoryview], None]


def export(config: Config, store: JobStore, study: str, target: Path, *, as_json: bool) -> int:
    """Write the instances of `study` to `target`; the exit code. ConfigError if it is taken."""
    found = store.copies.of_study(study)
    if not found:
        say.tell("Nothing is kept of such a study; `relaypacs trace` says what is known of it.")
        return 1
    if str(target) == "-" and as_json:
        raise ConfigError(["--json and a tar on standard output don't go together; name a file"])
    failed: list[dict[str, str]] = []
    written = 0
    read = _Source(config)
    names = _names(found)
    done = 0
    try:
        with _writer(target) as write:
            for one in found:
                try:
                    with read.open(one) as file:
                        write(names[one.instance_id], file)
                except (RelayPacsError, OSError) as problem:
                    failed.append({"sop_instance_uid": one.sop_instance_uid, "reason": _reason(problem)})
                else:
                    done += 1
                    written += one.location.file_length
    finally:  # also when somebody stops it half-way: what has left has left
        if done or failed:
            body = {"instances": done, "failed": len(failed), "target": _kind_of(target)}
            outcome = SUCCESS if done == len(found) else MINOR
            note(store, config, "export", body, study=study, outcome=outcome)
    if as_json:
        say.out_json({"study": study, "instances": done, "bytes": written, "failed": failed})
    else:
        for problem_of in failed[:_MOST_SHOWN]:
            say.tell(f"{say.printable(problem_of['sop_instance_uid'])}: {problem_of['reason']}")
        say.tell(f"{say.counted(done, 'instance')} written, {len(failed)} not.")
    return 1 if failed else 0


def verify(config: Config, store: JobStore, since: float, *, as_json: bool) -> int:
    """Read what was staged at `since` (seconds) or later; the exit code. StagingDown if staging can't be had."""
    read = _Source(config)
    found: dict[str, list[dict[str, object]]] = {"missing": [], "damaged": [], "unreadable": []}
    checked = size = after = 0
    next_word = time.monotonic() + _PROGRESS_SECONDS
    with ThreadPoolExecutor(config.staging.puts_at_once) as pool:
        while page := store.copies.staged(since=since, after=after, limit=_PAGE):
            after = page[-1].instance_id
            for one, problem in zip(page, pool.map(read.problem, page), strict=True):
                if isinstance(problem, StagingDown):
                    raise problem
                checked += 1
                size += one.location.file_length
                if problem is not None:
                    about: dict[str, object] = {
                        "sop_instance_uid": one.sop_instance_uid,
                        "key": one.location.staged_key,
                    }
                    found[_kind(problem)].append(about | {"reason": _reason(problem)})
                if time.monotonic() > next_word:
                    say.tell(f"{checked} checked, {size / 1e6:.0f} MB, {_summary(found)}")
                    next_word = time.monotonic() + _PROGRESS_SECONDS
    bad = sum(map(len, found.values()))
    if as_json:
        say.out_json({"checked": checked, "bytes": size, "good": checked - bad, **found})
    else:
        for kind, several in found.items():
            for about in several[:_MOST_SHOWN]:
                say.out(f"{kind}: {about['key']}: {about['reason']}")
        say.out(f"{say.counted(checked, 'object')} checked, {size / 1e6:.1f} MB, {_summary(found)}")
    return 1 if bad else 0


def _kind_of(target: Path) -> str:
    """What the audit trail says of where an export went; not its name, which may be a patient's."""
    return "standard output" if str(target) == "-" else "tar" if target.suffix == ".tar" else "folder"


class _Source:
    """Where copies are read from; thread-safe."""

    def __init__(self, config: Config) -> None:
        from relaypacs.node.stores import staging_of

        self._config = config
        self._staging: Staging = staging_of(config)
        self._reader = (
            SpoolReader(config.spool_dir, recycle=False, recycle_segments=0) if config.spool_dir.is_dir() else None
        )

    @contextmanager
    def open(self, copy: Copy) -> Iterator[memoryview]:
        """The file, whose digest is right. ObjectMissing, DigestMismatch, StagingError, SpoolError."""
        at = copy.location
        with ExitStack() as stack:
            if at.staged_key is not None:
                file = stack.enter_context(self._staging.open(at.staged_key))
            else:
                file = self._in_spool(copy, stack)
            start = at.dataset_offset - at.file_offset
            if len(file) != at.file_length or digest_of(file[start:], copy.transfer_syntax_uid) != copy.digest:
                raise DigestMismatch("its bytes are not those that were received")
            yield file

    def problem(self, copy: Copy) -> Exception | None:
        """What is wrong with it, if anything."""
        try:
            with self.open(copy):
                return None
        except (RelayPacsError, OSError) as problem:
            return problem

    def _in_spool(self, copy: Copy, stack: ExitStack) -> memoryview:
        at = copy.location
        if at.node != self._config.node.name or self._reader is None:
            raise ObjectMissing(f"it is only in the spool of node {at.node}")
        if at.generation is None:
            raise SegmentGone("its bytes are no longer kept")
        pin = stack.enter_context(self._reader.pin(at.generation))
        return stack.enter_context(pin.view(at.file_offset, at.file_length))


def _names(found: list[Copy]) -> dict[int, str]:
    """A file name for each, by instance id: its UID, and its digest where several have that UID."""
    names: dict[int, str] = {}
    several = Counter(one.sop_instance_uid for one in found)
    for one in found:
        uid = one.sop_instance_uid
        fit = _UID.fullmatch(uid) and uid.strip(".")
        name = uid if fit else f"instance-{one.instance_id}"
        names[one.instance_id] = f"{name}.{one.digest[:8]}.dcm" if several[uid] > 1 else f"{name}.dcm"
    return names


@contextmanager
def _writer(target: Path) -> Iterator[Write]:
    if str(target) == "-" or target.suffix == ".tar":
        yield from _tar(target)
        return
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError([f"{target} is there and not an empty folder; name another, or a file ending in .tar"])
    target.mkdir(parents=True, exist_ok=True)

    def to_folder(name: str, file: memoryview) -> None:
        (target / name).write_bytes(file)

    yield to_folder


def _tar(target: Path) -> Iterator[Write]:
    to_stdout = str(target) == "-"
    if not to_stdout and target.exists():
        raise ConfigError([f"{target} is there already; name another file"])
    draft = target.with_name(f"{target.name}.part")
    with ExitStack() as stack:
        out = sys.stdout.buffer if to_stdout else stack.enter_context(draft.open("wb"))
        archive = stack.enter_context(tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT))

        def add(name: str, file: memoryview) -> None:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.mode = len(file), int(time.time()), 0o640
            archive.addfile(entry, _Mapped(file))

        yield add
    if not to_stdout:
        draft.rename(target)


class _Mapped(io.RawIOBase):
    """A view read piece by piece, so that a file of gigabytes is never copied whole."""

    def __init__(self, view: memoryview) -> None:
        self._view, self._at = view, 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """The next bytes; 0 at the end."""
        piece = self._view[self._at : self._at + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


def _kind(problem: Exception) -> str:
    if isinstance(problem, ObjectMissing | FileNotFoundError):
        return "missing"
    return "damaged" if isinstance(problem, DigestMismatch) else "unreadable"


def _reason(problem: Exception) -> str:
    return str(problem) if isinstance(problem, RelayPacsError) else (getattr(problem, "strerror", "") or "unreadable")


def _summary(found: dict[str, list[dict[str, object]]]) -> str:
    return ", ".join(f"{len(several)} {kind}" for kind, several in found.items())
