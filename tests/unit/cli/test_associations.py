"""`associations` and `caller`: what they show of a real job table, and what they do to a real configuration file."""

from __future__ import annotations

import json
import shutil
import stat
import time
from dataclasses import replace
from pathlib import Path

import pytest

from relaypacs.cli import editing, writing
from relaypacs.config import Caller, load_config
from relaypacs.errors import ConfigError
from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import AssociationEnd
from relaypacs.policy.admission import UNKNOWN_CALLER, WRONG_ADDRESS
from tests.unit.cli.test_jobs import run

NOW = time.time()
PROPOSED = '[["~5.1.4.1.1.2.1",["~1.2.4.80"],4,""]]'
CONFIG = """# Ours.
[node]
state_dir = "{folder}"  # here
[receive]
transfer_syntaxes = ["1.2.840.10008.1.2.1"]

[[caller]]
ae_title = "CT_*"
networks = ["10.1.0.0/16"]
sop_classes = ["CT *"]
called_ae = ["RELAYPACS"]
echo = false
"""


def served(name: str, ago: float = 60.0, **changes: object) -> AssociationEnd:
    end = AssociationEnd(
        name, "CT_1", "RELAYPACS", "10.1.0.5:4242", NOW - ago - 2, NOW - ago, "released", 4, 4000, "", tries=1
    )
    return replace(end, **changes)  # type: ignore[arg-type]


def refused(name: str, title: str, reason: str = UNKNOWN_CALLER, **changes: object) -> AssociationEnd:
    what = {"calling_ae": title, "outcome": "rejected", "word": "calling-ae", "reason": reason, "objects": 0}
    return served(name, admitted=False, **{**what, **changes})


@pytest.fixture(scope="module")
def job_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("jobs") / "jobs.sqlite"
    store = JobStore.open(f"sqlite:///{file}")
    store.migrate()
    ends = [
        served("aa01", 7200.0),
        served("aa02", word="contexts", contexts=PROPOSED, objects=0),
        served("aa03", outcome="aborted", reason="it broke\n\x1b[31m"),
        refused("ff01", "MR_1", tries=3, ended_at=NOW - 40),
        refused("ff02", "MR_1", tries=4, ended_at=NOW - 20),
        refused("ff03", "CT_7", WRONG_ADDRESS, peer="10.2.0.7:99"),
        refused("ff04", "A*", peer="[fd00::7]:99"),
        refused("ff05", 'Q"1', peer="[fd00::7]:99"),
        refused("ff06", "CT_1", "x", word="called-ae", called_ae="ARCHIVE"),
        refused("ff07", "BAD\nTITLE"),
    ]
    store.take_in("node-1", [], ends, [], NOW)
    store.close()
    return file


@pytest.fixture
def house(tmp_path: Path, job_table: Path) -> Path:
    (tmp_path / "relaypacs.toml").write_text(CONFIG.format(folder=tmp_path))
    shutil.copy(job_table, tmp_path)
    return tmp_path


def test_shown_with_the_mend_below(house: Path) -> None:
    done = run("associations", cwd=house)
    assert done.returncode == 0, done.stderr
    assert "no [[caller]] is called MR_1: `relaypacs caller add --from-rejected ff02`" in done.stdout
    assert "CT_1 proposed Enhanced CT Image Storage only with JPEG-LS" in done.stdout
    assert "7 tries" in done.stdout
    assert "\x1b" not in done.stdout
    assert "BAD\\nTITLE" in done.stdout
    lines = done.stdout.splitlines()
    assert "aa01" in lines[0], "the latest stands last, where the eye is"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {"aa01", "aa02", "aa03", "ff02", "ff03", "ff04", "ff05", "ff06", "ff07"}),
        (["--rejected"], {"aa02", "ff02", "ff03", "ff04", "ff05", "ff06", "ff07"}),
        (["--caller", "MR_1"], {"ff02"}),
        (["--since", "1h", "--caller", "CT_1"], {"aa02", "aa03", "ff06"}),
        (["--rejected", "--limit", "1"], {"ff02"}),
        (["aa0"], {"aa01", "aa02", "aa03"}),
        (["ff01"], {"ff01"}),
    ],
)
def test_choices(house: Path, options: list[str], expected: set[str]) -> None:
    done = run("associations", "--json", *options, cwd=house)
    assert done.returncode == 0, done.stderr
    assert {one["association_id"] for one in json.loads(done.stdout)["associations"]} == expected


def test_json_has_everything(house: Path) -> None:
    (one,) = json.loads(run("associations", "aa02", "--json", cwd=house).stdout)["associations"]
    assert one["contexts"] == [
        {
            "abstract_syntax": "1.2.840.10008.5.1.4.1.1.2.1",
            "name": "Enhanced CT Image Storage",
            "transfer_syntaxes": ["1.2.840.10008.1.2.4.80"],
            "result": 4,
            "transfer_syntax": None,
        }
    ]
    assert "1.2.840.10008.1.2.4.80" in one["mend"]


def test_one_that_is_not_there_is_no(house: Path) -> None:
    assert run("associations", "zz", cwd=house).returncode == 1
    assert run("associations", "--since", "x", cwd=house).returncode == 2


def test_a_caller_is_appended_and_nothing_else_changes(house: Path) -> None:
    path = house / "relaypacs.toml"
    path.chmod(0o640)
    before = path.read_text()
    done = run("caller", "add", "--from-rejected", "ff02", cwd=house)
    assert done.returncode == 0, done.stderr
    after = path.read_text()
    assert after.startswith(before)
    assert 'ae_title = "MR_1"\nnetworks = ["10.1.0.5/32"]\n' in after
    assert "reads it when it starts" in done.stderr
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    (kept,) = house.glob("relaypacs.toml.*.bak")
    assert kept.read_text() == before
    assert stat.S_IMODE(kept.stat().st_mode) == 0o640
    assert not list(house.glob(".relaypacs*"))
    assert [one.ae_title for one in load_config(path, {}).caller] == ["CT_*", "MR_1"]
    # A second time there is nothing to do; and there is one backup for each change.
    assert run("caller", "add", "--from-rejected", "ff02", cwd=house).returncode == 2
    assert run("caller", "add", "--from-rejected", "ff05", cwd=house).returncode == 0
    assert len(list(house.glob("relaypacs.toml.*.bak"))) == 2
    assert load_config(path, {}).caller[2].ae_title == 'Q"1'
    assert load_config(path, {}).caller[2].networks == ("fd00::7/128",)


def test_another_address_gets_the_rights_of_the_entry_there_is(house: Path) -> None:
    assert run("caller", "add", "--from-rejected", "ff03", "--network", "10.2.0.0/24", cwd=house).returncode == 0
    old, new = load_config(house / "relaypacs.toml", {}).caller
    assert (new.ae_title, new.networks) == ("CT_7", ("10.2.0.0/24",))
    assert (new.sop_classes, new.called_ae, new.echo) == (old.sop_classes, old.called_ae, False)


@pytest.mark.parametrize(
    ("choice", "code", "said"),
    [
        (["ff04"], 2, "would admit others too"),
        (["ff06"], 2, "ARCHIVE"),
        (["ff07"], 2, "can't be admitted"),
        (["aa02"], 2, "1.2.840.10008.1.2.4.80"),
        (["aa01"], 1, "No refusal has this id"),
        (["zz"], 1, "No refusal has this id"),
        (["ff"], 2, "more than one"),
        (["ff02", "--network", "nonsense"], 2, "CIDR"),
    ],
)
def test_what_another_caller_would_not_mend_is_not_written(
    house: Path, choice: list[str], code: int, said: str
) -> None:
    before = (house / "relaypacs.toml").read_bytes()
    done = run("caller", "add", "--from-rejected", *choice, cwd=house)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert (house / "relaypacs.toml").read_bytes() == before
    assert not list(house.glob("*.bak"))


def test_dry_run_only_shows(house: Path) -> None:
    before = (house / "relaypacs.toml").read_bytes()
    done = run("caller", "add", "--from-rejected", "ff02", "--dry-run", cwd=house)
    assert 'ae_title = "MR_1"' in done.stdout
    assert (house / "relaypacs.toml").read_bytes() == before


@pytest.mark.parametrize(
    "text",
    [
        'caller = [{ ae_title = "CT_1" }]\n',
        '[[caller]]\nae_title = "CT_1"\n[node]\nname = """x\n',
        '[[caller]]\nae_title = "MR_1"\nnetworks = ["10.1.0.5/32"]',
        '[[caller]]\nae_title = "CT_1"\n[node]\nname = "changed-meanwhile"\n',
        '[[caller]]\nae_title = "changed-meanwhile"\n',
    ],
)
def test_a_file_that_takes_no_entry_stays_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "relaypacs.toml"
    path.write_text('[[caller]]\nae_title = "CT_1"\n')
    config = load_config(path, {})
    meant = config.model_copy(update={"caller": (*config.caller, Caller(ae_title="MR_1", networks=("10.1.0.5/32",)))})
    path.write_text(text)
    change = editing.appended(path, "caller", '[[caller]]\nae_title = "MR_1"\nnetworks = ["10.1.0.5/32"]')
    with pytest.raises(ConfigError):
        writing.write(change, path, {}, meant)
    assert path.read_text() == text
    assert [one.name for one in tmp_path.iterdir()] == ["relaypacs.toml"]


def test_a_link_stays_a_link(house: Path) -> None:
    real = house / "real.toml"
    (house / "relaypacs.toml").rename(real)
    (house / "relaypacs.toml").symlink_to(real)
    assert run("caller", "add", "--from-rejected", "ff02", cwd=house).returncode == 0
    assert (house / "relaypacs.toml").is_symlink()
    assert "MR_1" in real.read_text()


def test_list(house: Path) -> None:
    shown = run("caller", "list", cwd=house).stdout
    assert "10.1.0.0/16" in shown
    assert "CT *" in shown
    (one,) = json.loads(run("caller", "list", "--json", cwd=house).stdout)
    assert (one["ae_title"], one["echo"]) == ("CT_*", False)
