"""Real system calls that fail, one after another, under a running spool: no false Success, no loss, no restart.

strace makes the kernel's answer an error at chosen positions of a call; a preloaded library makes every write short.
Each row of `FAULTS` is one line of the fault matrix in docs/spool-format.md.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.spool.verdict import Said, judge

ROOT = Path(__file__).parents[3]
OBJECTS = 120

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")

# System call, error, and at which of a thread's calls: FIRST+STEP. No step divides the calls per object, so the fault
# walks through all positions.
WRITER_FAULTS = [
    ("pwritev2", "EIO", 4, 11),
    ("pwritev2", "ENOSPC", 4, 11),
    ("pwritev2", "EDQUOT", 5, 13),
    ("fdatasync", "EIO", 2, 17),
    ("fdatasync", "ENOSPC", 3, 13),
    ("fsync", "EIO", 5, 3),
    ("fsync", "ENOSPC", 6, 3),
    ("openat", "EIO", 3, 4),
    ("openat", "EMFILE", 4, 5),
    ("openat", "ENOSPC", 3, 5),
    ("rename", "EIO", 2, 3),
    ("rename", "ENOSPC", 3, 4),
    ("flock", "ENOLCK", 2, 3),
    ("statfs", "EIO", 1, 2),
]

# The same for a process that also reads and frees: the reader tries again, what it freed stays freed.
READER_FAULTS = [
    ("pread64", "EIO", 3, 97),
    ("fdatasync", "EIO", 2, 17),
    ("fadvise64", "EIO", 1, 2),
    ("rename", "EIO", 1, 2),
    ("unlink", "EIO", 1, 2),
    ("fsync", "EIO", 3, 4),
    ("openat", "EIO", 5, 7),
    ("flock", "ENOLCK", 3, 4),
]


def _victim(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-B", "-m", "tests.crash.spool.victim", str(folder), *arguments]


def _run(command: list[str], **environment: str) -> tuple[Said, str]:
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=150
    )
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return Said().hear(done.stdout.splitlines()), done.stderr


def _inject(folder: Path, call: str, error: str, first: int, step: int, *options: str) -> Said:
    log = folder.parent / "strace.log"
    fault = f"inject={call}:error={error}:when={first}+{step}"
    strace = ["strace", "-f", "-qq", "--seccomp-bpf", "-o", str(log), "-e", f"trace={call}", "-e", fault]
    if call == "openat":
        # The interpreter opens files too: here only the two folders, which are opened to be synced.
        strace += ["-P", str(folder / "segments"), "-P", str(folder / "free")]
    said, _ = _run([*strace, *_victim(folder, "--objects", str(OBJECTS), "--segment-bytes", "400000", *options)])
    assert log.read_text().count("(INJECTED)") > 0, "the fault must have happened"
    return said


def _expect_whole(folder: Path, said: Said) -> None:
    problems, found = judge(folder, said)
    assert problems == []
    assert said.lasting == [], "it must work again when the cause is gone"
    assert said.acknowledged == OBJECTS
    assert found == OBJECTS, "what was refused must not be published"


@pytest.mark.parametrize(("call", "error", "first", "step"), WRITER_FAULTS)
def test_a_writer_survives_failing_calls(tmp_path: Path, call: str, error: str, first: int, step: int) -> None:
    _expect_whole(tmp_path / "spool", _inject(tmp_path / "spool", call, error, first, step))


@pytest.mark.parametrize(("call", "error", "first", "step"), READER_FAULTS)
def test_a_reader_survives_failing_calls(tmp_path: Path, call: str, error: str, first: int, step: int) -> None:
    said = _inject(tmp_path / "spool", call, error, first, step, "--free")
    assert judge(tmp_path / "spool", said)[0] == []
    assert said.lasting == []
    assert said.acknowledged == OBJECTS
    assert said.freed, "the reader must have gone on"


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize(
    ("call", "calls"),
    [("pwritev2", 60), ("fdatasync", 25), ("fsync", 12), ("openat", 14), ("rename", 6), ("statfs", 2), ("flock", 6)],
)
def test_every_single_position(tmp_path: Path, call: str, calls: int, error: str) -> None:
    for position in range(1, calls + 1):
        folder = tmp_path / f"spool-{position}"
        # The folders are there already: a fault while they are made only keeps the process from starting.
        _run(_victim(folder, "--objects", "0"))
        _expect_whole(folder, _inject(folder, call, error, position, 60_000))
        shutil.rmtree(folder)


_SHORT = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/uio.h>
#include <unistd.h>
typedef ssize_t (*pwrite_t)(int, const void *, size_t, off_t);
static ssize_t one(int fd, const void *data, size_t length, off_t at) {
    static pwrite_t real;
    if (!real) real = (pwrite_t)dlsym(RTLD_NEXT, "pwrite64");
    return real(fd, data, length > 700 ? length / 2 + 1 : length, at);
}
ssize_t pwrite(int fd, const void *data, size_t length, off_t at) { return one(fd, data, length, at); }
ssize_t pwrite64(int fd, const void *data, size_t length, off_t at) { return one(fd, data, length, at); }
static ssize_t first(int fd, const struct iovec *v, int n, off_t at) {
    for (int i = 0; i < n; i++)
        if (v[i].iov_len) return one(fd, v[i].iov_base, v[i].iov_len, at);
    return 0;
}
ssize_t pwritev(int fd, const struct iovec *v, int n, off_t at) { return first(fd, v, n, at); }
ssize_t pwritev64(int fd, const struct iovec *v, int n, off_t at) { return first(fd, v, n, at); }
ssize_t pwritev2(int fd, const struct iovec *v, int n, off_t at, int f) { return first(fd, v, n, at); }
ssize_t pwritev64v2(int fd, const struct iovec *v, int n, off_t at, int f) { return first(fd, v, n, at); }
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_every_write_short(tmp_path: Path) -> None:
    (tmp_path / "short.c").write_text(_SHORT)
    library = tmp_path / "short.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, tmp_path / "short.c", "-ldl"], check=True)
    folder, log = tmp_path / "spool", tmp_path / "strace.log"
    strace = ["strace", "-f", "-qq", "--seccomp-bpf", "-o", str(log), "-E", f"LD_PRELOAD={library}"]
    said, _ = _run([*strace, "-e", "trace=pwrite64,pwritev,pwritev2", *_victim(folder, "--objects", str(OBJECTS))])
    _expect_whole(folder, said)
    assert "pwritev2(" not in log.read_text(), "every write must have gone through the library"


def test_a_file_size_limit_is_a_failure_and_no_false_success(tmp_path: Path) -> None:
    """RLIMIT_FSIZE: the kernel writes short, then says EFBIG; what doesn't fit this segment goes into the next."""
    folder = tmp_path / "spool"
    code = (
        "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (450_000, 450_000)); "
        "runpy.run_module('tests.crash.spool.victim', run_name='__main__')"
    )
    said, _ = _run([sys.executable, "-B", "-c", code, str(folder), "--objects", str(OBJECTS)])
    assert said.refused
    _expect_whole(folder, said)
