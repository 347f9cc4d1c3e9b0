"""`config check` and `config show`: every problem at once, and no secret shown."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from tests.unit.cli.test_app import run

GOOD = """
[node]
state_dir = "/srv/relaypacs"
[jobs]
url = "postgresql://relay:geheim@db.example/relaypacs"
[[caller]]
ae_title = "CT_1"
[[destination]]
name = "pacs"
kind = "dimse"
host = "10.0.0.9"
called_ae = "PACS"
[[destination]]
name = "web"
kind = "dicomweb"
url = "https://archive.example/dicom-web"
[[rule]]
name = "ct"
modality = "CT"
tags = { StationName = "ROOM 1 \\" é" }
to = ["pacs", "web"]
"""


@pytest.fixture
def good(tmp_path: Path) -> Path:
    (tmp_path / "relaypacs.toml").write_text(GOOD, encoding="utf-8")
    return tmp_path


def test_a_good_file_is_fine(good: Path) -> None:
    done = run("config", "check", cwd=good)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "relaypacs.toml is fine: 1 caller, 2 destinations, 1 rule.\n"


def test_warnings_are_shown_and_are_no_failure(good: Path) -> None:
    (good / "relaypacs.toml").write_text(GOOD.replace('to = ["pacs", "web"]', 'to = ["pacs"]'), encoding="utf-8")
    done = run("config", "check", cwd=good)
    assert done.returncode == 0
    assert done.stderr.startswith("relaypacs: warning: ")
    assert "web" in done.stderr


def test_every_problem_is_named_at_once_with_its_place(good: Path) -> None:
    (good / "bad.toml").write_text(
        GOOD.replace('kind = "dimse"', 'kind = "dimsee"')
        .replace('"CT_1"', '"bad\\\\title"')
        .replace('to = ["pacs", "web"]', 'to = ["pcas"]')
        + "[sidecar]\nport = 123456\nprot = 1\n",
        encoding="utf-8",
    )
    done = run("config", "check", "-c", "bad.toml", cwd=good)
    assert (done.returncode, done.stdout) == (2, "")
    for place in ("[sidecar] port", "[sidecar] prot", "caller[1]", "destination[1]", "rule[1]"):
        assert any(place in line and line.startswith("relaypacs: bad.toml:") for line in done.stderr.splitlines()), (
            place
        )
    assert "geheim" not in done.stderr


def test_other_commands_refuse_a_bad_file_the_same_way(good: Path) -> None:
    (good / "bad.toml").write_text("[nod]\n[sidecar]\nport = -1\n")
    for command in (("queue",), ("serve",), ("config", "show"), ("echo", "pacs")):
        done = run(*command, cwd=good, RELAYPACS_CONFIG="bad.toml")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 2)


def test_show_can_be_read_back_and_masks_secrets(good: Path) -> None:
    done = run("config", "show", cwd=good)
    assert done.returncode == 0, done.stderr
    assert "geheim" not in done.stdout
    shown = tomllib.loads(done.stdout)
    assert shown["jobs"]["url"] == "**********"
    assert shown["rule"][0]["tags"] == {"StationName": 'ROOM 1 " é'}
    assert shown["spool"]["recycle"] is True
    assert [one["name"] for one in shown["destination"]] == ["pacs", "web"]
    document = json.loads(run("config", "show", "--json", cwd=good).stdout)
    assert document["jobs"]["url"] == "**********"
    assert document["node"]["state_dir"] == "/srv/relaypacs"


def test_changed_shows_only_what_differs_and_tells_of_the_environment(good: Path) -> None:
    done = run("config", "show", "--changed", "--json", cwd=good, LOG_LEVEL="debug")
    document = json.loads(done.stdout)
    assert set(document) == {"node", "log", "jobs", "caller", "destination", "rule"}
    assert document["log"] == {"level": "debug"}
    assert document["node"] == {"state_dir": "/srv/relaypacs"}
    assert document["caller"] == [{"ae_title": "CT_1"}]
    assert set(document["destination"][0]) == {"name", "kind", "host", "called_ae"}


def test_the_environment_names_the_file_and_an_option_overrides_it(good: Path, tmp_path_factory: object) -> None:
    (good / "other.toml").write_text(GOOD.replace("/srv/relaypacs", "/srv/other"), encoding="utf-8")
    for arguments, environ, expected in (
        ((), {"RELAYPACS_CONFIG": "other.toml"}, "/srv/other"),
        (("-c", "relaypacs.toml"), {"RELAYPACS_CONFIG": "other.toml"}, "/srv/relaypacs"),
    ):
        for order in (("config", "show", "--json", *arguments), (*arguments, "config", "show", "--json")):
            done = run(*order, cwd=good, **environ)
            assert json.loads(done.stdout)["node"]["state_dir"] == expected
