"""The audit trail of a running node, and a real rsyslog that gets it over TLS, however often it goes away."""

from __future__ import annotations

import os
import pwd
import re
import sqlite3
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import pytest

from tests.peers.dcmtk import StoreScp, storescu
from tests.peers.node import Node, dimse
from tests.peers.pki import Authority
from tests.peers.ports import wait_until
from tests.peers.stock import StockScp
from tests.peers.syslog import Collector
from tests.samples import write_ct_series

LINE = re.compile(r"<8[45]>1 \S+ \S+ relaypacs \d+ DICOM\+RFC3881 - \ufeff?(<\?xml.*)")
QUICK = {"routing": {"study_quiet_seconds": 1.0}}


def rows(relay: Node, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = relay.cli_json("audit", "--limit", "1000", *words)["rows"]
    return found


def kinds(relay: Node) -> list[str]:
    return [row["kind"] for row in rows(relay) if row["kind"] != "audit"]


def messages(collector: Collector) -> list[Xml.Element]:
    found = []
    for line in collector.lines():
        match = LINE.fullmatch(line)
        assert match is not None, line
        found.append(Xml.fromstring(match[1]))
    return found


def events_of(collector: Collector) -> list[str]:
    """Event ids of what came."""
    return [one.find("EventIdentification/EventID").attrib["csd-code"] for one in messages(collector)]  # type: ignore[union-attr]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


def collecting(authority: Authority, collector: Collector) -> dict[str, Any]:
    identity = authority.issue("/CN=relay.example", names="DNS:relay.example")
    return {
        "collector": f"127.0.0.1:{collector.port}",
        "tls_ca": str(authority.certificate),
        "tls_certificate": str(identity.certificate),
        "tls_key": str(identity.key),
        "site": "North",
    }


def test_what_the_trail_tells(
    tmp_path: Path, node: Callable[..., Node], storescp: Callable[..., StoreScp], peers: ExitStack
) -> None:
    archive, refuses = storescp(), peers.enter_context(StockScp(answer=lambda _: 0x0122))
    picky = dimse("picky", refuses.port, refuses.aet)
    relay = node(
        destinations=[dimse("archive", archive.port, archive.aet), picky],
        callers=[{"ae_title": "CT_1"}],
        sections=QUICK,
    )
    files = write_ct_series(tmp_path / "series", 3, rows=16, columns=16)
    assert storescu(relay.port, files, calling="CT_1").returncode == 0
    assert storescu(relay.port, files, calling="NOBODY").returncode != 0
    wait_until(
        lambda: {"received", "delivered", "failed", "refused"} <= set(kinds(relay)),
        "it is told",
        60.0,
        every_seconds=0.5,
    )
    found = {row["kind"]: row for row in rows(relay)}
    study = found["received"]["study"]
    assert study
    assert (found["received"]["actor"], found["received"]["body"]["instances"]) == ("CT_1", 3)
    assert (found["delivered"]["actor"], found["delivered"]["study"]) == ("archive", study)
    assert found["delivered"]["body"]["peer"] == f"127.0.0.1:{archive.port}"
    assert (found["failed"]["actor"], found["failed"]["outcome"]) == ("picky", 8)
    assert (found["refused"]["actor"], found["refused"]["study"]) == ("NOBODY", "")

    assert relay.cli("resend", study, "--to", "archive").returncode == 0
    assert relay.cli("export", study, tmp_path / "out").returncode == 0
    config = relay.config_path.read_text()
    relay.config_path.write_text(config.replace('"CT_1"', '"CT_*"'))
    wait_until(lambda: "config-taken" in kinds(relay), "the new configuration is told", 30.0)
    found = {row["kind"]: row for row in rows(relay)}
    assert found["config-taken"]["body"] == {"changed": ["caller"]}
    assert found["resend"]["study"] == found["export"]["study"] == study
    assert found["resend"]["node"] == found["received"]["node"], "in whose name it is sent to the collector"
    assert found["resend"]["body"] == {"destination": "archive", "changed": 3}
    assert found["export"]["body"] == {"instances": 3, "failed": 0, "target": "folder"}
    assert found["audit"]["body"]["rows"] > 0, "that it was read is told"

    assert {row["kind"] for row in rows(relay, "--study", study)} >= {"received", "delivered", "resend", "export"}
    assert {row["actor"] for row in rows(relay, "--user", "NOBODY")} == {"NOBODY"}
    assert {row["kind"] for row in rows(relay, "--kind", "start")} == {"start"}
    assert rows(relay, "--since", "1h", "--kind", "refused")
    shown = relay.cli("audit", "--study", study)
    assert shown.returncode == 0
    assert f"received  CT_1  on {relay.cli_json('audit')['rows'][0]['node']}  study {study}" in shown.stdout
    assert relay.cli("audit", "--check").returncode == 0
    wrong = relay.cli("audit", "--kind", "recieved")
    assert wrong.returncode == 2

    for words, kind, body in (
        (("caller", "add", "MR_9"), "config", {"command": "caller add", "subject": "MR_9"}),
        (("caller", "remove", "MR_9"), "config", {"command": "caller remove", "subject": "MR_9"}),
        (("config", "rollback", "1"), "config", {"command": "config rollback", "subject": "1"}),
        (("node", "drain", "--no-wait"), "drain", {"drained": "relaypacs", "cancelled": False}),
        (("node", "drain", "--cancel"), "drain", {"drained": "relaypacs", "cancelled": True}),
        (("reconcile",), "reconcile", {"restored": 0, "queued": 0, "held": 0}),
    ):
        relay.cli(*words)
        row = rows(relay, "--kind", kind)[-1]
        assert (row["actor"], row["body"]) == (pwd.getpwuid(os.getuid()).pw_name, body), words
    assert relay.stop() == 0
    assert kinds(relay)[-1] == "stop"
    assert kinds(relay)[0] == "start"

    with sqlite3.connect(relay.state_dir / "jobs.sqlite") as connection:
        for change in ("UPDATE audit SET actor = 'X'", "DELETE FROM audit"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                connection.execute(change)
        connection.execute("DROP TRIGGER audit_no_update")
        connection.execute("UPDATE audit SET actor = 'X' WHERE kind = 'refused'")
    broken = relay.cli("audit", "--check")
    assert broken.returncode == 1
    assert f"Row {found['refused']['id']} is not what it was" in broken.stdout


def test_a_collector_gets_all_however_often_it_goes_away(
    tmp_path: Path, node: Callable[..., Node], storescp: Callable[..., StoreScp], authority: Authority
) -> None:
    archive = storescp()
    server = authority.issue("/CN=localhost")
    collector = Collector(tmp_path / "rsyslog", server, authority.certificate, permitted="relay.example")
    relay = node(
        destinations=[dimse("archive", archive.port, archive.aet)],
        callers=[{"ae_title": "CT_1"}],
        sections={**QUICK, "audit": collecting(authority, collector)},
    )
    first = write_ct_series(tmp_path / "one", 2, rows=16, columns=16)
    assert storescu(relay.port, first, calling="CT_1").returncode == 0
    wait_until(lambda: "delivered" in kinds(relay), "it is told while the collector is away", 60.0)
    wait_until(lambda: relay.metric("relaypacs_audit_send_failures_total") >= 1, "it is tried", 30.0)
    wait_until(lambda: relay.metric("relaypacs_audit_unsent_rows") >= 3, "what waits is counted", 30.0)
    collector.start()
    wait_until(lambda: events_of(collector).count("110104") >= 2, "what waited has come", 60.0)
    assert events_of(collector)[0] == "110100"

    collector.freeze()
    second = write_ct_series(tmp_path / "two", 2, rows=16, columns=16, seed="two")
    assert storescu(relay.port, second, calling="CT_1").returncode == 0
    wait_until(lambda: kinds(relay).count("delivered") == 2, "the flow goes on while it hangs", 60.0)
    study = rows(relay, "--kind", "received")[0]["study"]
    assert relay.cli("resend", study, "--to", "archive").returncode == 0, "what people do is sent, too"
    collector.kill()
    collector.start()
    wait_until(lambda: events_of(collector).count("110104") >= 4, "what it had not read has come", 90.0)
    assert relay.stop() == 0
    wait_until(lambda: events_of(collector)[-1] == "110100", "that the node stops", 30.0)
    collector.stop()

    told = [row for row in rows(relay) if row["kind"] != "audit"]
    assert "resend" in {row["kind"] for row in told}
    sent = [one.find("EventIdentification").attrib["EventDateTime"] for one in messages(collector)]  # type: ignore[union-attr]
    for row in told:
        assert row["at"].replace("+00:00", "Z") in sent, row
    text = collector.file.read_text()
    assert "North" in text
    for patient in ("Doe", "DOE^"):
        assert patient not in text


def test_a_collector_that_is_another_gets_nothing(
    tmp_path: Path, node: Callable[..., Node], authority: Authority
) -> None:
    other = Authority(tmp_path / "other")
    collector = Collector(
        tmp_path / "rsyslog", other.issue("/CN=localhost"), other.certificate, permitted="relay.example"
    )
    with collector:
        relay = node(sections={"audit": collecting(authority, collector)})
        wait_until(lambda: bool(relay.events("audit-collector-down")), "it is told", 30.0)
        assert "certificate" in relay.events("audit-collector-down")[0]["message"]
        wait_until(lambda: relay.metric("relaypacs_audit_unsent_rows") >= 1, "what waits is counted", 30.0)
        assert collector.lines() == []
        begun = time.monotonic()
        assert relay.stop() == 0
        assert time.monotonic() - begun < 15


def test_a_collector_that_lets_us_not_in_is_not_taken_for_one_that_read(
    tmp_path: Path, node: Callable[..., Node], authority: Authority
) -> None:
    collector = Collector(
        tmp_path / "rsyslog", authority.issue("/CN=localhost"), authority.certificate, permitted="somebody.else"
    )
    with collector:
        relay = node(sections={"audit": collecting(authority, collector)})
        wait_until(lambda: relay.metric("relaypacs_audit_send_failures_total") >= 2, "it is tried again", 30.0)
        assert relay.metric("relaypacs_audit_sent_total") == 0
        assert collector.lines() == []


def test_a_node_that_is_killed_between_sending_and_the_mark_sends_again(
    tmp_path: Path, node: Callable[..., Node], authority: Authority
) -> None:
    collector = Collector(
        tmp_path / "rsyslog", authority.issue("/CN=localhost"), authority.certificate, permitted="relay.example"
    )
    with collector:
        died = tmp_path / "died"
        order = {"RELAYPACS_FAILPOINT": "trail.sent:1", "RELAYPACS_FAILPOINT_ONCE": str(died)}
        relay = node(sections={"audit": collecting(authority, collector)}, environment=order)
        wait_until(lambda: events_of(collector).count("110100") >= 2, "the first row has come twice", 30.0)
        assert died.exists()
        first, second = (one.find("EventIdentification").attrib for one in messages(collector)[:2])  # type: ignore[union-attr]
        assert first == second
        wait_until(relay.is_ready, "the relay is there again", 30.0)
