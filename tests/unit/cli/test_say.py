"""Ages, escapes and tables as people read them."""

from __future__ import annotations

import json

import pytest

from relaypacs.cli import say


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "-"),
        (-3, "0 s"),
        (0.4, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (3660, "1 h 1 min"),
        (86400 * 8 + 3600 * 5 + 59, "8 d 5 h"),
        (86400 + 59, "1 d"),
    ],
)
def test_ages(seconds: float | None, shown: str) -> None:
    assert say.age(seconds) == shown


def test_what_a_peer_wrote_can_not_steer_a_terminal() -> None:
    assert say.printable("CT_1 é") == "CT_1 é"
    assert say.printable("\x1b[2Jgone\n") == "\\x1b[2Jgone\\n"
    assert say.printable("\u202egnp.exe") == "\\u202egnp.exe"


def test_a_table_keeps_every_character_when_it_does_not_go_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 200
    say.out_table(["name", "count"], [[long, "1"], ["[red]not markup[/red]", "22"]])
    printed = capsys.readouterr().out
    assert long in printed
    assert "[red]not markup[/red]" in printed
    assert "\x1b" not in printed


def test_json_is_one_line_of_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    say.out_json({"a": "\x1bé"})
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert printed.count("\n") == 1
    assert json.loads(printed) == {"a": "\x1bé"}


def test_times() -> None:
    assert say.iso(0.1234) == "1970-01-01T00:00:00.123+00:00"
    assert say.iso(None) is None
    assert say.when(None) == "-"
    assert say.when(1_700_000_000).startswith("2023-11-1")


def test_plurals() -> None:
    assert say.counted(1, "instance") == "1 instance"
    assert say.counted(0, "instance") == "0 instances"


@pytest.mark.parametrize("time", [None, 1e300, float("nan"), -1e15])
def test_a_moment_that_no_calendar_has(time: float | None) -> None:
    assert say.when(time) == "-"
    assert say.iso(time) is None
