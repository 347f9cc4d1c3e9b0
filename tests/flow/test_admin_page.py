"""`docs/admin.md` typed as it stands: every `console` block in one shell, in order, and what the node answers compared.

What differs from one try to the next (times, ages, UIDs, ids, ports of peers) is matched by its form; an id that the
page shows stands in later commands for the one that was really shown.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.peers.node import RELAYPACS
from tests.peers.ports import free_port
from tests.samples import write_ct_series

PAGE = Path(__file__).parents[2] / "docs" / "admin.md"
FOLDER = "/tmp/try"
PORTS = ("11112", "11113", "8080", "2762")
ASKS = ("relaypacs queue", "relaypacs trace", "relaypacs associations", "relaypacs ledger", "relaypacs echo", "curl ")
"""What may be asked again until it has come so far; everything else is typed once."""
PATIENCE_SECONDS = 20.0
ID = r"\b[0-9a-f]{20}\b"
FORMS = (
    ("…", r"[\s\S]*?"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"),
    (r"\d{8}T\d{6}Z(?:-\d+)?", r"\d{8}T\d{6}Z(?:-\d+)?"),
    (r"1\.2\.826\.[0-9.]+", r"1\.2\.826\.[0-9.]+"),
    (ID, f"({ID})"),
    (r"127\.0\.0\.1:[345]\d{4}", r"127\.0\.0\.1:\d+"),
    (r"\d+ m?s\b(?! or)", r"(?:\d+ min )?[0-9.]+ m?s"),
    (r"bytes in 0\.0 s", r"bytes in [0-9.]+ s"),
    ("─+", "─+"),
    (r"\s+", r"\s+"),
)
"""What the page says, and what it may be instead."""


def typed() -> Iterator[tuple[str, str]]:
    """Each command of the page with what it answers there."""
    for block in re.findall(r"^```console\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        for one in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            first, _, rest = one.partition("\n")
            if "<<'END'" in first:
                document, _, rest = rest.partition("END\n")
                first += f"\n{document}END"
            yield first, rest


def as_pattern(text: str) -> str:
    """A regular expression for an answer of the page."""
    found, at = "", 0
    either = re.compile("|".join(f"({form})" for form, _ in FORMS))
    for match in either.finditer(text):
        index = next(number for number, group in enumerate(match.groups()) if group is not None)
        found += re.escape(text[at : match.start()]) + FORMS[index][1]
        at = match.end()
    return r"\s*" + (found + re.escape(text[at:])).removesuffix(r"\s+") + r"\s*"


class Shell:
    """One bash, as somebody has it open."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._bash = subprocess.Popen(
            ["bash", "--norc"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            cwd=folder, env=environment, start_new_session=True,
        )  # fmt: skip

    def type(self, command: str) -> str:
        """What it answers."""
        assert self._bash.stdin
        assert self._bash.stdout
        self._bash.stdin.write(f"{{ {command}\n}} </dev/null\necho; echo @@@\n".encode())
        self._bash.stdin.flush()
        lines = []
        while (line := self._bash.stdout.readline().decode()) not in ("@@@\n", ""):
            lines.append(line)
        return "".join(lines)

    def close(self) -> None:
        """End everything it started, by what it remembers of it."""
        with suppress(OSError):
            self.type("kill $node $pacs 2>/dev/null; wait $node")
        self._bash.kill()
        self._bash.communicate()


def test_the_page_is_typed_and_does_what_it_says(tmp_path: Path) -> None:
    ports = {port: str(free_port()) for port in PORTS}
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RELAYPACS")},
        "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",  # DCMTK's programs, not those of the same name in a venv
        "RELAYPACS_RECEIVE__PORT": ports["11112"],
        "RELAYPACS_SIDECAR__PORT": ports["8080"],
    }
    folder = tmp_path / "try"
    for one, count in (("scan", 3), ("scan2", 4)):
        write_ct_series(folder / one, count, rows=16, columns=16, seed="ct" if one == "scan" else "b")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "relaypacs").symlink_to(RELAYPACS)
    learned = {**ports, FOLDER: str(folder)}
    begun = time.monotonic()
    shell = Shell(folder, environment)
    try:
        for written, promised in typed():
            command, answer = _real(written, learned), _real(promised, learned)
            said = _answer(shell, command, answer)
            match = re.fullmatch(as_pattern(answer), said)
            shown = re.findall(ID, answer)
            if match and shown:
                learned |= dict(zip(shown, match.groups(), strict=True))
            if not match:
                pytest.fail(f"$ {command}\n{said}\n--- the page says:\n{answer}\n--- log:\n{_log(folder)}")
    finally:
        shell.close()
    assert time.monotonic() - begun < 120, "hangs"
    log = _log(folder)
    assert "process-crashed" not in log
    assert log.count('"node-stopped"') == 2


def _real(text: str, learned: dict[str, str]) -> str:
    return re.sub("|".join(re.escape(one) for one in learned), lambda found: learned[found[0]], text)


def _answer(shell: Shell, command: str, expected: str) -> str:
    """What a command says; of one that only asks, what it says in the end."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        said = shell.type(command)
        asks = command.startswith(ASKS)
        if not asks or re.fullmatch(as_pattern(expected), said) or time.monotonic() > deadline:
            return said
        time.sleep(0.3)


def _log(folder: Path) -> str:
    with suppress(OSError):
        return (folder / "node.log").read_text()[-4000:]
    return ""


def test_every_kind_of_command_is_on_the_page() -> None:
    """What the page promises to show."""
    commands = [command for command, _ in typed()]
    for words in (
        "config check", "doctor", "serve", "associations --rejected", "caller add --from-rejected", "caller add MR_1",
        "worksheet", "destination add", "destination test", "send", "trace", "queue", "hold", "release", "config plan",
        "config rollback", "config reload", "ledger",
    ):  # fmt: skip
        assert any(command.startswith(f"relaypacs {words}") for command in commands), words
