"""A node's job table is lost, or lacks rows: staging brings them back. And a node goes out of service, empty."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from relaypacs.wake.hints import poke
from tests.peers.dcmtk import StoreScp, storescu
from tests.peers.node import Node, dimse
from tests.peers.ports import free_port, wait_until
from tests.samples import dataset_of, write_mr_series


def staged(relay: Node) -> list[Path]:
    return list((relay.state_dir / "staging").rglob("*.dcm"))


def segments(relay: Node) -> list[Path]:
    poke(relay.state_dir / "run" / "intake.sock")  # it looks once a minute by itself
    return list((relay.state_dir / "spool" / "segments").glob("*.tar"))


def listens(relay: Node) -> bool:
    """It is not ready while it is being drained, but its sidecar answers."""
    try:
        return relay.get("/healthz")[0] == 200
    except OSError:
        return False


def test_a_lost_job_table_is_rebuilt_from_staging_and_nothing_is_sent_unasked(
    tmp_path: Path, node: Callable[..., Node], storescp: Callable[..., StoreScp]
) -> None:
    files = write_mr_series(tmp_path / "series", 12)
    archive = storescp()
    relay = node(
        destinations=[dimse("archive", archive.port, archive.aet)],
        sections={"staging": {"hot_seconds": 0.0, "keep": "forever"}},
    )
    assert storescu(relay.port, files).returncode == 0
    relay.wait_settled(12)
    wait_until(lambda: len(staged(relay)) == 12, "staging", 30)
    wait_until(lambda: not segments(relay), "the spool to be freed", 60)
    done = relay.cli("rebuild")
    assert (done.returncode, "so it is not lost" in done.stdout) == (1, True)
    relay.stop()
    for file in relay.state_dir.glob("jobs.sqlite*"):
        file.unlink()
    relay.start()  # it works on with an empty table, and says what is odd
    wait_until(lambda: len(relay.events("rows-missing")) == 1, "a line that says so", 30)
    said = relay.cli_json("rebuild")
    assert (said["looked_at"], said["restored"], said["held"], said["queued"], said["unreadable"]) == (12, 12, 12, 0, 0)
    assert relay.cli("rebuild", "--into-existing").stdout.startswith("12 objects in staging: 0 got a row")
    arrived = {path.name: path.stat().st_mtime_ns for path in archive.files()}
    book = relay.ledger()
    assert (book["instances"], book["held"], book["pending"], book["imbalance"]) == (12, 12, 0, 0)
    # Some rows are lost while the node runs: what was staged today is delivered, without asking.
    with sqlite3.connect(relay.state_dir / "jobs.sqlite") as connection:
        connection.execute("PRAGMA busy_timeout = 10000")
        connection.execute("DELETE FROM delivery WHERE instance_id <= 4")
        connection.execute("DELETE FROM instance WHERE id <= 4")
        connection.execute(
            "UPDATE tally SET received = received - 4, routed = routed - 4 WHERE association_id LIKE 'restored%'"
        )
    assert "4 without a row" in relay.cli("reconcile", "--dry-run").stdout
    said = relay.cli_json("reconcile")
    assert (said["restored"], said["queued"], said["held"]) == (4, 4, 0)
    wait_until(lambda: relay.ledger()["delivered"] == 4, "what was queued", 30)
    assert relay.cli("release", "--all", "--yes").returncode == 0
    wait_until(lambda: relay.ledger()["delivered"] == 12, "what was released", 30)
    book = relay.ledger()
    assert (book["instances"], book["held"], book["imbalance"]) == (12, 0, 0)
    again = {path.name: path.stat().st_mtime_ns for path in archive.files()}
    assert all(again[name] > arrived[name] for name in arrived), "each has been sent a second time"
    sent = sorted(dataset_of(path.read_bytes()) for path in files)
    assert sorted(dataset_of(path.read_bytes()) for path in archive.files()) == sent


def test_a_node_is_drained_and_says_when_it_is_empty(tmp_path: Path, node: Callable[..., Node]) -> None:
    files = write_mr_series(tmp_path / "series", 10)
    down = free_port()
    relay = node(
        destinations=[dimse("later", down, "LATER", retry="1000x1s")],
        sections={"staging": {"hot_seconds": 0.0, "keep": "none"}},
    )
    assert storescu(relay.port, files).returncode == 0
    wait_until(lambda: relay.ledger()["pending"] == 10, "the rows", 30)
    assert relay.cli("node", "drain", "nobody").returncode == 1
    done = relay.cli("node", "drain", "--no-wait")
    assert (done.returncode, "10 deliveries pending" in done.stdout) == (1, True)
    wait_until((relay.state_dir / "draining").exists, "the node to hear of it", 20)
    status, body = relay.get("/readyz")
    assert (status, "being drained" in body) == (503, True)
    assert storescu(relay.port, files[:1]).returncode != 0
    (refused,) = relay.events("association-rejected")
    assert (refused["reason"], refused["answer"]) == ("draining", "2/3/2")
    relay.stop()
    relay.launch()
    wait_until(lambda: listens(relay), "the node", 30)
    assert storescu(relay.port, files[:1]).returncode != 0, "a restart does not undo it"
    later = StoreScp(tmp_path / "later", aet="LATER")
    later.port = down
    with later:
        said = relay.cli_json("node", "drain")
        assert said == {"node": "relaypacs", "empty": True, "pending": 0, "held": 0, "failed": 0, "segments": 0}
        assert len(later.files()) == 10
        assert (staged(relay), segments(relay)) == ([], [])
        assert relay.cli("node", "drain", "--cancel").returncode == 0
        wait_until(lambda: not (relay.state_dir / "draining").exists(), "the node to hear of it", 20)
        assert storescu(relay.port, files[:1]).returncode == 0
        book = relay.wait_settled(11)
    assert (book["received"], book["imbalance"]) == (11, 0)
