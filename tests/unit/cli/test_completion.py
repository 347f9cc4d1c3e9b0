"""Completion in a real bash, as `relaypacs --show-completion` sets it up."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.peers.node import RELAYPACS

SCRIPT = """
eval "$(relaypacs --show-completion)"
complete -p relaypacs
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_relaypacs_completion relaypacs "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["relaypacs", "de"], ["destination"]),
        (["relaypacs", "caller", ""], ["add", "list", "remove", "test"]),
        (["relaypacs", "queue", "--j"], ["--json"]),
        (["relaypacs", "hold", "--older"], ["--older-than"]),
    ],
)
def test_bash_completes_commands_and_options(tmp_path: Path, words: list[str], expected: list[str]) -> None:
    (tmp_path / "completes.sh").write_text(SCRIPT)
    done = subprocess.run(
        ["bash", "--norc", "completes.sh", *words],
        cwd=tmp_path,
        env={"PATH": f"{RELAYPACS.parent}:{os.environ['PATH']}", "HOME": str(tmp_path), "SHELL": "/bin/bash"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    hook, *found = done.stdout.split("\n")[:-1]
    assert hook == "complete -o default -F _relaypacs_completion relaypacs"
    assert sorted(found) == expected
