"""The folder's lock: one node, local disks, no later format."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from relaypacs.errors import SpoolError, SpoolLocked
from relaypacs.spool.lock import lock_spool, network_file_system


def test_a_second_node_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    fd = lock_spool(tmp_path / "spool", 0)
    with pytest.raises(SpoolLocked, match="held by another node"):
        lock_spool(tmp_path / "spool", 0.15)
    os.close(fd)
    os.close(lock_spool(tmp_path / "spool", 0))


def test_the_lock_is_held_until_the_last_forked_process_ends(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; from relaypacs.spool.lock import lock_spool\n"
        "lock_spool(Path(sys.argv[1]), 0)\n"
        "if os.fork(): print('held', flush=True); os._exit(0)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as node:
        assert node.stdout is not None
        assert node.stdout.readline() == "held\n"
        node.wait(10)
        with pytest.raises(SpoolLocked):
            lock_spool(tmp_path, 0)
        assert node.stdin is not None
        node.stdin.close()
        began = time.monotonic()
        os.close(lock_spool(tmp_path, 10))
        assert time.monotonic() - began < 5


def test_network_file_systems_are_known_by_their_magic() -> None:
    assert network_file_system(0x6969) == "NFS"
    assert network_file_system(0xFF534D42) == "CIFS"
    assert network_file_system(0xEF53) is None, "ext4"
    assert network_file_system(0x58465342) is None, "xfs"
    assert network_file_system(0x01021994) is None, "tmpfs"


def test_segments_of_a_later_format_are_refused(tmp_path: Path) -> None:
    (tmp_path / "segments").mkdir()
    (tmp_path / "segments" / ("0" * 32 + ".2.tar")).touch()
    with pytest.raises(SpoolError, match="newer RelayPACS"):
        lock_spool(tmp_path, 0)


def test_an_unusable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SpoolError, match="can't be used"):
        lock_spool(tmp_path / "file" / "spool", 0)
