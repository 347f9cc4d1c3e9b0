"""Who did it: the login, whatever the environment says."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from relaypacs.cli import person

ASK = "from relaypacs.cli.person import who; print(who())"
LOG_IN = "import os; open('/proc/self/loginuid', 'w').write('{uid}'); "


def asked(code: str, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={**os.environ, **variables}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_environment_is_not_believed() -> None:
    assert asked(ASK, LOGNAME="somebody", USER="somebody", SUDO_USER="somebody") == person.who() != "somebody"


def test_who_logged_in_counts_behind_sudo() -> None:
    """Only root can try it, and where the kernel audits."""
    nobody = pwd.getpwnam("nobody")
    try:
        asked(LOG_IN.format(uid=nobody.pw_uid))
    except AssertionError:
        pytest.skip("the login uid can't be set here")
    assert asked(LOG_IN.format(uid=nobody.pw_uid) + ASK) == "nobody"


@pytest.mark.parametrize("kept", ["4294967295", "", "no number"])
def test_without_a_login_it_is_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str) -> None:
    monkeypatch.setattr(person, "_LOGIN_UID", tmp_path / "loginuid")
    (tmp_path / "loginuid").write_text(kept)
    assert person.who() == pwd.getpwuid(os.getuid()).pw_name


def test_a_user_without_a_name_has_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(person, "_LOGIN_UID", tmp_path / "loginuid")
    (tmp_path / "loginuid").write_text("123456789")
    assert person.who() == "uid 123456789"
