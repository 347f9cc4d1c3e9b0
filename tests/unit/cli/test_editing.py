"""Entries added and removed by command: nothing else of the files changes, and what would not load is not written."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from relaypacs.config import load_config
from relaypacs.jobs.store import JobStore
from tests.unit.cli.rows import arrival
from tests.unit.cli.test_jobs import run

CONFIG = """\
# The house's own words.
[node]
state_dir = "{folder}"   # here
[receive]
ae_titles = ["RELAY", "SECOND"]

# Scanners
[[caller]]
ae_title = "CT_1"
networks = ["10.1.0.0/16"]  # first floor
called_ae = ["SECOND"]
# a note inside
echo = false

# and the old one
[[caller]]
ae_title = "CT_1"
networks = ["10.2.0.0/16"]

[[destination]]
name = "pacs"
kind = "dimse"
host = "pacs.example"
called_ae = "PACS"

# spare
[[destination]]
name = "spare"
kind = "dimse"
host = "spare.example"
called_ae = "SPARE"

# rules come last
[[rule]]
name = "all"
to = ["pacs"]
[rule.tags]
StationName = "*"
"""


@pytest.fixture
def house(tmp_path: Path) -> Path:
    (tmp_path / "relaypacs.toml").write_text(CONFIG.replace("{folder}", str(tmp_path)))
    return tmp_path


def text(house: Path) -> str:
    return (house / "relaypacs.toml").read_text()


def test_a_caller_is_added_and_removed_again(house: Path) -> None:
    before = text(house)
    added = run("caller", "add", "MR_1", "--network", "10.9.0.0/24", "--called", "RELAY", cwd=house)
    assert added.returncode == 0, added.stderr
    assert text(house).startswith(before)
    new = load_config(house / "relaypacs.toml", {}).caller[-1]
    assert (new.ae_title, new.networks, new.called_ae) == ("MR_1", ("10.9.0.0/24",), ("RELAY",))
    assert run("caller", "remove", "MR_1", cwd=house).returncode == 0
    assert text(house) == before
    assert len(list(house.glob("*.bak"))) == 2


def test_what_is_added_but_hardly_as_meant_is_told(house: Path) -> None:
    done = run("caller", "add", "MR_1", "--called", "NOPE", cwd=house)
    assert (done.returncode, 'warning: caller[3] "MR_1": none of its called_ae' in done.stderr) == (0, True)
    done = run("caller", "add", "CT_1", "--network", "10.2.3.0/24", cwd=house)
    assert 'caller[4] "CT_1": has no effect, for caller[2] "CT_1" stands before it' in done.stderr
    assert "warning" not in run("caller", "add", "MR_2", cwd=house).stderr


def test_only_the_entry_goes(house: Path) -> None:
    before = text(house)
    assert run("caller", "remove", "CT_1", cwd=house).returncode == 2  # which of the two?
    done = run("caller", "remove", "CT_1", "--network", "10.1.0.0/16", cwd=house)
    assert done.returncode == 0, done.stderr
    first = before.index('[[caller]]\nae_title = "CT_1"\nnetworks = ["10.1')
    last = before.index("echo = false\n") + len("echo = false\n")
    assert text(house) == before[:first] + before[last:]
    assert "# Scanners\n\n# and the old one\n[[caller]]" in text(house)
    assert [one.networks for one in load_config(house / "relaypacs.toml", {}).caller] == [("10.2.0.0/16",)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["caller", "add", "A\\B"], "write an AE title"),
        (["caller", "add", "MR", "--network", "10.0.0.0/99"], "write a CIDR network"),
        (["caller", "add", "CT_1", "--network", "10.2.0.0/16"], "stands before with the same networks"),
        (["caller", "add"], "give the AE title, or --from-rejected"),
        (["caller", "remove", "NOBODY"], "no [[caller]] is called 'NOBODY'"),
        (["destination", "add", "pacs", "--to", "h:104", "--called", "X"], "there is a destination pacs already"),
        (["destination", "add", "new", "--to", "h:104"], "--called is missing"),
        (["caller", "add", "A_TITLE_OF_NOBODY"], "it has 1 to 16 characters, not 17"),
        (["destination", "add", "New", "--to", "h:104", "--called", "X"], "lower-case"),
        (["destination", "add", "new", "--to", "nonsense", "--called", "X"], "HOST:PORT"),
        (["destination", "add", "web", "--to", "https://u:p@h/rs"], "keep user and password out"),
        (
            ["destination", "remove", "pacs"],
            "relaypacs.toml:34) sends to pacs: take it out of there first, in the file",
        ),
        (["destination", "remove", "absent"], "no destination is named"),
    ],
)
def test_what_would_not_load_is_not_written(house: Path, words: list[str], said: str) -> None:
    before = text(house)
    done = run(*words, cwd=house)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert text(house) == before
    assert [one.name for one in house.iterdir()] == ["relaypacs.toml"]


def test_a_destination_with_its_rule(house: Path) -> None:
    words = ["destination", "add", "web", "--to", "https://w.example/rs", "--credentials-env", "WEB", "--everything"]
    shown = run(*words, "--dry-run", cwd=house)
    assert 'url = "https://w.example/rs"' in shown.stdout
    before = text(house)
    done = run(*words, cwd=house)
    assert done.returncode == 0, done.stderr
    assert text(house).startswith(before)
    config = load_config(house / "relaypacs.toml", {"WEB_TOKEN": "t"})
    assert (config.destination[-1].name, config.destination[-1].credentials_env) == ("web", "WEB")
    assert (config.rule[-1].name, config.rule[-1].to) == ("everything-to-web", ("web",))
    listed = json.loads(run("destination", "list", "--json", cwd=house).stdout)
    assert [one["name"] for one in listed] == ["pacs", "spare", "web"]
    assert listed[2]["named_by"] == ["rule[2] 'everything-to-web'"]
    assert "SPARE at spare.example:104" in run("destination", "list", cwd=house).stdout


def test_removing_a_destination_undoes_what_adding_it_did_to_rules(house: Path) -> None:
    before = text(house)
    words = ["destination", "add", "new", "--to", "h:104", "--called", "X", "--everything"]
    assert run(*words, cwd=house).returncode == 0
    shown = run("destination", "remove", "new", "--dry-run", cwd=house)
    assert "Would remove destination new and its rule everything-to-new from" in shown.stdout
    assert run("destination", "remove", "new", cwd=house).returncode == 0
    assert text(house) == before
    # A rule that somebody has changed since is theirs.
    assert run(*words, cwd=house).returncode == 0
    changed = text(house) + 'modality = "CT"\n'
    (house / "relaypacs.toml").write_text(changed)
    done = run("destination", "remove", "new", cwd=house)
    line = changed.splitlines().index('name = "everything-to-new"')
    assert f"rule[2] 'everything-to-new' ({house}/relaypacs.toml:{line}) sends to new" in done.stderr
    assert (done.returncode, text(house)) == (2, changed)


def test_the_last_ten_copies_are_kept_and_nobody_else_s(house: Path) -> None:
    others = [
        house / "relaypacs.toml.bak",
        house / "relaypacs.toml.20200101.bak",
        house / "other.toml.20200101T000000Z.bak",
    ]
    for one in others:
        one.write_text("mine")
    before = []
    for number in range(13):
        before.append(text(house))
        assert run("caller", "add", f"MR_{number}", cwd=house).returncode == 0
    copies = set(house.glob("*.bak")) - set(others)
    assert sorted((one.read_text() for one in copies), key=len) == before[-10:]
    assert all(one.read_text() == "mine" for one in others)


def test_a_destination_that_is_owed_something_stays(house: Path) -> None:
    assert run("destination", "remove", "spare", "--dry-run", cwd=house).returncode == 0
    store = JobStore.open(f"sqlite:///{house}/jobs.sqlite")
    store.migrate()
    now = time.time()
    store.take_in("node-1", [arrival(number, ("spare",), now=now) for number in (1, 2)], [], [], now)
    before = text(house)
    done = run("destination", "remove", "spare", cwd=house)
    assert done.returncode == 1
    assert "spare is owed 2 deliveries not over" in done.stderr
    assert "discard --to spare" in done.stderr
    assert text(house) == before
    store.close()
    assert run("discard", "--to", "spare", "--yes", cwd=house).returncode == 0
    done = run("destination", "remove", "spare", cwd=house)
    assert done.returncode == 0, done.stderr
    entry = '[[destination]]\nname = "spare"\nkind = "dimse"\nhost = "spare.example"\ncalled_ae = "SPARE"\n'
    assert text(house) == before.replace(entry, "")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["CT_1", "--address", "10.2.7.7"], 0, 'admitted by caller[2] "CT_1"'),
        (["CT_1", "--address", "10.1.7.7", "--called", "SECOND"], 0, 'admitted by caller[1] "CT_1"'),
        (["CT_1", "--address", "10.1.7.7"], 1, "1/1/7"),
        (["CT_1", "--address", "192.0.2.1"], 1, "may not connect from this address"),
        (["CT_1"], 0, "Only from 10.2.0.0/16."),
        (["XX"], 1, "no [[caller]] has this calling AE title: add one"),
        (["CT_1", "--called", "OTHER"], 1, "the called AE title is not ours"),
        (["CT_1", "--tls"], 1, "no listener has TLS"),
    ],
)
def test_would_it_be_admitted(house: Path, words: list[str], code: int, said: str) -> None:
    done = run("caller", "test", *words, cwd=house)
    assert (done.returncode, said in done.stdout) == (code, True), done.stdout + done.stderr


def test_in_a_folder_the_right_file_is_changed(house: Path) -> None:
    folder = house / "conf"
    folder.mkdir()
    whole = text(house)
    split = whole.index("[[destination]]")
    (folder / "10-node.toml").write_text(whole[:split])
    (folder / "20-pacs.toml").write_text(whole[split:])
    options = ["--config", str(folder)]
    assert run("caller", "add", "MR_1", *options, cwd=house).returncode == 0
    assert (folder / "10-node.toml").read_text().endswith('ae_title = "MR_1"\n')
    done = run("destination", "remove", "spare", *options, cwd=house)
    assert done.returncode == 0, done.stderr
    assert "spare.example" not in (folder / "20-pacs.toml").read_text()
    assert sorted(one.suffix for one in folder.iterdir()) == [".bak", ".bak", ".toml", ".toml"]


def test_in_a_folder_without_such_an_entry_it_gets_a_file_of_its_own(house: Path) -> None:
    folder = house / "conf"
    folder.mkdir()
    (folder / "node.toml").write_text('[node]\nname = "x"\n')
    done = run("caller", "add", "MR_1", "--config", str(folder), cwd=house)
    assert done.returncode == 0, done.stderr
    assert (folder / "caller.toml").exists()
    assert [one.ae_title for one in load_config(folder, {}).caller] == ["MR_1"]


def test_windows_line_ends_and_a_byte_order_mark_stay(house: Path) -> None:
    path = house / "relaypacs.toml"
    before = b"\xef\xbb\xbf" + text(house).replace("\n", "\r\n").encode()
    path.write_bytes(before)
    assert run("caller", "add", "MR_1", cwd=house).returncode == 0
    after = path.read_bytes()
    assert after.startswith(before)
    assert after.count(b"\n") == after.count(b"\r\n")
    assert run("caller", "remove", "MR_1", cwd=house).returncode == 0
    assert path.read_bytes() == before
