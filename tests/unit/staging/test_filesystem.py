"""What the file system adapter does beyond the contract: folders, leftovers, broken disks, kernels without syncfs."""

import mmap
import os
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from relaypacs.errors import StagingError
from relaypacs.staging.filesystem import FilesystemStaging
from relaypacs.staging.protocol import StagedFacts

KEY = "2026/01/14/study-aa/bb-cc.dcm"


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "segment"
    path.write_bytes(b"x" * 10_000)
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


def test_a_staged_file_is_a_plain_file_nobody_else_may_read(tmp_path, source):
    staging = FilesystemStaging(tmp_path / "a" / "staging")
    staging.put(KEY, source, 0, 10_000)
    path = tmp_path / "a" / "staging" / KEY
    assert path.read_bytes() == b"x" * 10_000
    assert path.stat().st_mode & 0o007 == 0
    assert path.parent.stat().st_mode & 0o007 == 0


def test_deleting_removes_emptied_folders_and_no_other(tmp_path, source):
    staging = FilesystemStaging(tmp_path / "staging")
    other = "2026/01/15/study-aa/bb-cc.dcm"
    staging.put(KEY, source, 0, 10)
    staging.put(other, source, 0, 10)
    staging.delete(KEY)
    assert not (tmp_path / "staging/2026/01/14").exists()
    assert (tmp_path / "staging" / other).exists()
    staging.delete(other)
    assert [path.name for path in (tmp_path / "staging").iterdir()] == [".new"]


def test_what_a_killed_process_left_half_put_goes_when_the_next_one_starts(tmp_path, source):
    staging = FilesystemStaging(tmp_path / "staging")
    staging.put(KEY, source, 0, 10)
    (tmp_path / "staging" / ".new" / "77.1").write_bytes(b"torn")
    assert list(staging.scan()) == [(KEY, 10)]
    FilesystemStaging(tmp_path / "staging")
    assert len(list((tmp_path / "staging" / ".new").iterdir())) == 1, "it may be another process's"
    FilesystemStaging(tmp_path / "staging", only_one_that_puts=True)
    assert list((tmp_path / "staging" / ".new").iterdir()) == []
    assert list(staging.scan()) == [(KEY, 10)]


def test_the_association_is_known_where_the_file_system_has_attributes(tmp_path, source):
    staging = FilesystemStaging(tmp_path / "staging")
    facts = StagedFacts("ab" * 32, "a-1", "MR\u00c4 1", "RELAY", "10.0.0.7:1", 5.0)
    staging.put(KEY, source, 0, 10, facts)
    try:
        os.getxattr(tmp_path / "staging" / KEY, "user.relaypacs.association")
    except OSError:
        pytest.skip("no attributes here")
    found = staging.describe(KEY, 0)
    assert found.facts == replace(facts, digest="", received_at=found.stored_at)
    os.setxattr(tmp_path / "staging" / KEY, "user.relaypacs.association", b"[1]")
    assert staging.describe(KEY, 0).facts is None


def test_a_link_in_the_folder_is_never_followed(tmp_path, source):
    staging = FilesystemStaging(tmp_path / "staging")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "staging" / "link.dcm").symlink_to(tmp_path / "secret")
    (tmp_path / "staging" / "folder").symlink_to("/")
    assert list(staging.scan()) == []
    with pytest.raises(StagingError), staging.open("link.dcm"):
        pass


def test_a_folder_under_the_key_is_no_object(tmp_path, source):
    staging = FilesystemStaging(tmp_path / "staging")
    staging.put(KEY, source, 0, 10)
    with pytest.raises(StagingError), staging.open("2026/01/14"):
        pass
    with pytest.raises(StagingError):
        staging.delete("2026/01/14")
    with pytest.raises(StagingError):
        staging.put("2026/01/14", source, 0, 10)


def test_a_slice_may_outlive_the_context(tmp_path, source):
    staging = FilesystemStaging(tmp_path / "staging")
    staging.put(KEY, source, 0, 10_000)
    with staging.open(KEY) as view:
        part = view[5000:]
    assert bytes(part) == b"x" * 5000


def test_opening_keeps_no_descriptor(tmp_path, source):
    staging = FilesystemStaging(tmp_path / "staging")
    staging.put(KEY, source, 0, 10_000)
    before = len(os.listdir("/proc/self/fd"))
    with staging.open(KEY) as view:
        part = view[1:2]
    del view
    part.release()
    assert len(os.listdir("/proc/self/fd")) == before


def test_pages_that_cannot_be_read_are_an_error_and_no_signal(tmp_path):
    """The kernel gives up on a page past the end of a file as it does on a bad sector."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100_000)
    with path.open("r+b") as file:
        mapping = mmap.mmap(file.fileno(), 100_000, access=mmap.ACCESS_READ)
        file.truncate(0)
        with pytest.raises(OSError):
            mapping.madvise(22, 0, 100_000)  # MADV_POPULATE_READ, what `open` asks for


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StagingError) as caught:
        FilesystemStaging(tmp_path / "file" / "staging")
    assert str(tmp_path) not in str(caught.value)


def test_a_full_disk_leaves_nothing_and_recovers(tmp_path, source):
    small = tmp_path / "small"
    small.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small]).returncode:
        pytest.skip("needs to mount a small file system")
    try:
        staging = FilesystemStaging(small / "staging")
        big = os.memfd_create("big")
        os.truncate(big, 1 << 20)
        with pytest.raises(StagingError, match="No space left"):
            staging.put(KEY, big, 0, 1 << 20)
        os.close(big)
        assert list((small / "staging/.new").iterdir()) == []
        staging.put(KEY, source, 0, 10_000)
        staging.sync()
        assert list(staging.scan()) == [(KEY, 10_000)]
    finally:
        subprocess.run(["umount", "-l", small], check=True)


PROGRAM = """
    import os, sys, threading
    from pathlib import Path
    from relaypacs.errors import StagingError
    from relaypacs.staging.filesystem import FilesystemStaging
    staging = FilesystemStaging(Path(sys.argv[1]) / "staging")
    source = os.open(sys.argv[2], os.O_RDONLY)
    def sync():
        try:
            staging.sync()
        except StagingError as error:
            print("refused", error)
        else:
            print("synced")
    staging.put("2026/01/14/s/a.dcm", source, 0, 10)
    staging.put("2026/01/14/s/b.dcm", source, 0, 10)
    staging.delete("2026/01/14/s/b.dcm")
    other = threading.Thread(target=sync)
    other.start()
    other.join()
    sync()
    sync()
"""


def under_strace(tmp_path: Path, *inject: str) -> tuple[list[str], str]:
    """Run PROGRAM with system calls failing as `inject` says; its lines, and the trace of its sync calls."""
    if not shutil.which("strace"):
        pytest.skip("needs strace")
    (tmp_path / "segment").write_bytes(b"x" * 100)
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-y", "-o", str(trace), "-e", "trace=syncfs,fsync,copy_file_range,pread64"]
    for rule in inject:
        command += ["-e", f"inject={rule}"]
    command += [sys.executable, str(tmp_path / "program.py"), str(tmp_path), str(tmp_path / "segment")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines(), trace.read_text()


def test_a_failed_sync_is_known_to_each_thread_that_put(tmp_path):
    # Each thread's first call fails: the main thread's only asks whether there is a syncfs, the other's is a sync.
    lines, _ = under_strace(tmp_path, "syncfs:error=EIO:when=1")
    assert lines[0].startswith("refused staging: sync: Input/output error")
    assert lines[1].startswith("refused")
    assert lines[2] == "synced"
    assert str(tmp_path) not in lines[0]


def test_a_kernel_without_syncfs_and_kernel_copies(tmp_path):
    lines, trace = under_strace(tmp_path, "syncfs:error=ENOSYS", "copy_file_range:error=ENOSYS")
    assert lines == ["synced"] * 3
    synced = [line.split("<")[1].split(">")[0] for line in trace.splitlines() if "fsync(" in line]
    folder = f"{tmp_path}/staging"
    assert synced[0] == f"{folder}/2026/01/14/s/a.dcm"
    assert set(synced[1:]) == {
        folder,
        *(f"{folder}/{part}" for part in ("2026", "2026/01", "2026/01/14", "2026/01/14/s")),
    }
    assert (tmp_path / "staging/2026/01/14/s/a.dcm").read_bytes() == b"x" * 10


def test_a_disk_that_fails_to_copy_leaves_nothing(tmp_path):
    (tmp_path / "segment").write_bytes(b"x" * 100)
    with pytest.raises(subprocess.CalledProcessError) as caught:
        under_strace(tmp_path, "copy_file_range:error=EIO")
    assert "StagingError: staging: put: Input/output error" in caught.value.stderr
    assert [path for path in (tmp_path / "staging").rglob("*") if path.is_file()] == []
