"""Real file systems that fill up, turn read-only, or lose power. Needs root (mounts, loop devices); skipped without.

Everything lies in memory: a tmpfs holds an xfs, which holds the image of the disk under test. A power cut is a reflink
copy of that image, an atomic snapshot of what had reached the disk while the victim writes; it is mounted and judged.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from relaypacs.errors import SpoolError, SpoolFull
from relaypacs.model import ObjectRecord
from relaypacs.spool.writer import SpoolWriter
from tests.crash.spool.verdict import Said, judge
from tests.unit.spool.made import data, put, read_all, reader, writer

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("losetup"), reason="needs root and loop devices")


def _do(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{command}: {done.stderr.strip()}")
    return done.stdout.strip()


@contextmanager
def _mounted(folder: Path, *arguments: str | Path) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    try:
        _do("mount", *arguments, folder)
    except OSError as problem:
        pytest.skip(f"can't mount here: {problem}")
    try:
        yield folder
    finally:
        _unmount(folder)


def _unmount(folder: Path) -> None:
    for _ in range(100):
        if subprocess.run(["umount", folder], capture_output=True).returncode == 0:
            return
        time.sleep(0.05)
    _do("umount", "-l", folder)


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A small file system in memory."""
    with _mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=3m", "tmpfs") as folder:
        yield folder


@pytest.mark.timeout(1800)
def test_a_full_disk_again_and_again(tmpfs: Path, long_run: bool) -> None:
    """Fill to the last byte, check every promise, free, go on: no false Success, no loss."""
    spool = writer(tmpfs, segment_bytes=200_000, durable=True)
    read = reader(tmpfs)
    draw = random.Random(1)
    refused = acknowledged = 0
    cycles = 500 if long_run else 60
    for _ in range(cycles):
        promised = {}
        in_a_row = 0
        while in_a_row < 4:
            payload = data(draw.choice([0, 3000, 33_000, 150_000]), acknowledged)
            try:
                promised[put(spool, payload, acknowledged)] = payload
                acknowledged += 1
                in_a_row = 0
            except SpoolFull:
                refused += 1
                in_a_row += 1
        found = {record.at: record for generation in read.generations() for record in read_all(read, generation)}
        assert found.keys() == promised.keys()
        for at, record in found.items():
            assert isinstance(record, ObjectRecord)
            with read.pin(at.generation) as pin:
                assert pin.view(record.dataset_offset, record.dataset_length) == promised[at]
        # A segment that is still open can't be freed: as after a restart, all are sealed here.
        spool.close()
        assert all(read.free(generation) for generation in read.generations())
        spool = writer(tmpfs, segment_bytes=200_000, durable=True)
    spool.close()
    assert refused >= 4 * cycles
    assert acknowledged > 10 * cycles


def test_the_mark_leaves_room_and_gives_it_back(tmpfs: Path) -> None:
    spool = writer(tmpfs, segment_bytes=200_000, min_free_bytes=1_000_000)
    read = reader(tmpfs)
    with pytest.raises(SpoolFull, match="below its mark"):
        _fill(spool)
    assert "below its mark" in (spool.refusal() or "")
    spool.append_event("association", 1.0, {"outcome": "aborted"})
    assert read.free_bytes() > 700_000
    for generation in read.generations():
        read.free(generation)
    assert spool.refusal() is None
    put(spool, data(33_000))
    spool.close()
    read.close()


def _fill(spool: SpoolWriter) -> None:
    for number in range(1000):
        put(spool, data(33_000), number)


def test_a_read_only_disk_is_refused_until_it_is_writable_again(tmpfs: Path) -> None:
    spool = writer(tmpfs, segment_bytes=1, durable=True, probe_seconds=0.01)
    before = put(spool, b"before")
    _do("mount", "-o", "remount,ro", tmpfs)
    with pytest.raises(SpoolError, match="Read-only"):
        put(spool, b"lost")
    time.sleep(0.02)
    assert "Read-only" in (spool.refusal() or "")
    _do("mount", "-o", "remount,rw", tmpfs)
    time.sleep(0.02)
    assert spool.refusal() is None
    after = put(spool, b"after")
    read = reader(tmpfs)
    found = [record.at for generation in read.generations() for record in read_all(read, generation)]
    assert sorted(found, key=repr) == sorted([before, after], key=repr)
    spool.close()
    read.close()


def _image(path: Path, kind: str, megabytes: int) -> None:
    with path.open("wb") as file:
        file.truncate(megabytes << 20)
    if kind == "ext4":
        _do("mkfs.ext4", "-q", "-F", path)
    else:
        _do("mkfs.xfs", "-q", "-f", path)


def _mkfs_or_skip(*kinds: str) -> None:
    for kind in kinds:
        if shutil.which(f"mkfs.{kind}") is None:
            pytest.skip(f"needs mkfs.{kind}")


def test_a_disk_that_errors_out_under_open_segments(tmp_path: Path) -> None:
    """ext4 turns itself read-only beneath a running writer: refused, and nothing acknowledged is lost."""
    _mkfs_or_skip("ext4")
    image = tmp_path / "disk.img"
    _image(image, "ext4", 64)
    lines: list[str] = []
    with _mounted(tmp_path / "disk", "-o", "loop,errors=remount-ro", image) as folder:
        device = Path(_do("findmnt", "-n", "-o", "SOURCE", folder)).name
        trigger = Path(f"/sys/fs/ext4/{device}/trigger_fs_error")
        if not trigger.exists():
            pytest.skip("this kernel can't trigger an ext4 error")
        with _victim(folder / "spool", lines, "--threads", "2", "--segment-bytes", "2000000"):
            _until(lambda: len(lines) > 50)
            trigger.write_text("injected by a test")
            _until(lambda: sum(line.startswith("refused") for line in lines) >= 2)
            heard = len(lines)
            time.sleep(0.3)
    assert not any(line.startswith("ack") for line in lines[heard:])
    subprocess.run(["e2fsck", "-fy", image], capture_output=True)
    with _mounted(tmp_path / "disk", "-o", "loop", image) as folder:
        problems, _ = judge(folder / "spool", Said().hear(lines))
    assert problems == []


def _until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


@contextmanager
def _victim(folder: Path, lines: list[str], *options: str) -> Iterator[subprocess.Popen[str]]:
    """A victim whose lines come in as it says them; killed at the end."""
    command = [sys.executable, "-B", "-m", "tests.crash.spool.victim", str(folder), *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as victim:
        ears = _listen(victim, lines)
        try:
            yield victim
        finally:
            victim.kill()
            ears.join()


def _listen(victim: subprocess.Popen[str], lines: list[str]) -> threading.Thread:
    def hear() -> None:
        assert victim.stdout is not None
        lines.extend(iter(victim.stdout.readline, ""))

    thread = threading.Thread(target=hear)
    thread.start()
    return thread


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_power_cuts(tmp_path: Path, kind: str, long_run: bool) -> None:
    """Snapshots of the disk while a victim writes, frees and recycles; each must keep what was said before it."""
    _mkfs_or_skip("xfs", kind)
    cuts = 200 if long_run else 12
    with ExitStack() as stack:
        memory = stack.enter_context(_mounted(tmp_path / "memory", "-t", "tmpfs", "-o", "size=4g", "tmpfs"))
        _image(memory / "outer.img", "xfs", 2500)
        outer = stack.enter_context(_mounted(tmp_path / "outer", "-o", "loop", memory / "outer.img"))
        disk = outer / "disk.img"
        _image(disk, kind, 330)
        inner = stack.enter_context(_mounted(tmp_path / "inner", "-o", "loop", disk))
        lines: list[str] = []
        options = ("--threads", "3", "--free", "--segment-bytes", "2000000")
        victim = stack.enter_context(_victim(inner / "spool", lines, *options))
        draw = random.Random(7)
        found = acknowledged = 0
        nouuid = ",nouuid" if kind == "xfs" else ""
        for cut in range(cuts):
            time.sleep(draw.uniform(0.01, 0.12))
            assert victim.poll() is None
            heard = len(lines)
            _do("cp", "--reflink=always", disk, outer / "cut.img")
            with _mounted(tmp_path / "cut", "-o", f"loop{nouuid}", outer / "cut.img") as after:
                # What was being freed while the copy was made may be gone in it; its line may be heard late.
                time.sleep(0.2)
                freeing = [line for line in lines[heard:] if line.startswith("freeing")]
                said = Said().hear([*lines[:heard], *freeing])
                problems, count = judge(after / "spool", said)
            assert problems == [], f"cut {cut}"
            found, acknowledged = found + count, said.acknowledged
    assert acknowledged > cuts
    assert found > cuts
    assert any(line.startswith("freed") for line in lines), "segments must have been recycled"
