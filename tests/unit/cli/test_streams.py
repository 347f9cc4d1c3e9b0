"""The command line with standard streams that are closed, full or read by nobody."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RELAYPACS = Path(sys.executable).with_name("relaypacs")


def shell(redirected: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """`relaypacs config show` with these redirections."""
    config = tmp_path / "relaypacs.toml"
    config.write_text("[receive]\nport = 104\n")
    command = f"{RELAYPACS} config show --config {config} {redirected}"
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize("redirected", [">&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_streams_that_are_not_there_are_nobody_s_trouble(redirected: str, tmp_path: Path) -> None:
    done = shell(redirected, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_output_that_can_t_be_written_is_one_sentence(tmp_path: Path) -> None:
    done = shell(">/dev/full", tmp_path)
    assert done.returncode == 2
    assert done.stderr == "relaypacs: standard output can't be written: No space left on device\n"


def test_a_reader_that_has_seen_enough_is_no_error_to_speak_of(tmp_path: Path) -> None:
    done = shell("| true", tmp_path)
    assert done.stderr == ""
