"""Readiness and computed metrics of a node's folder: real job table, real locks, real disk."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import fields
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from relaypacs import __version__, alive
from relaypacs.config import Config
from relaypacs.errors import JobsError
from relaypacs.jobs.values import Ledger
from relaypacs.sidecar.checks import checks_of
from relaypacs.sidecar.jobtable import READING_DEADLINE_SECONDS, JobTable
from relaypacs.sidecar.metrics import STATES, NodeStates
from tests.unit.cli.rows import STUDY, filled
from tests.unit.sidecar.test_app import ask
from tests.unit.sidecar.test_metrics_page import listed

NODE_CHECKS = {"receive", "relay", "intake", "spool", "job_table", "staging"}


def config_of(folder: Path, **sections: dict[str, object]) -> Config:
    """A node with two destinations whose state lies in `folder`."""
    return Config.model_validate(
        {
            "node": {"state_dir": str(folder)},
            "spool": {"min_free_bytes": 1 << 20},
            "destination": [
                {"name": name, "kind": "dimse", "host": "127.0.0.1", "called_ae": "PACS"}
                for name in ("pacs", "archive")
            ],
        }
        | sections
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a node that is up has made: folders, a job table with rows."""
    for name in ("spool/segments", "spool/free", "spool/quarantine", "staging", "run/metrics"):
        (tmp_path / name).mkdir(parents=True)
    filled(tmp_path / "jobs.sqlite", now=time.time()).close()
    return tmp_path


@contextmanager
def serving(folder: Path, *names: str) -> Iterator[None]:
    """Processes of these names serve."""
    held = [alive.serve(folder / "run" / "alive" / name) for name in names]
    yield
    for descriptor in held:
        os.close(descriptor)


def look(config: Config) -> dict[str, tuple[bool, str]]:
    """Every check's answer now."""
    jobs = JobTable(config)
    answers = {name: check() for name, check in checks_of(config, jobs).items()}
    jobs.close()
    assert {name for name, answer in answers.items() if answer.needed} == NODE_CHECKS
    return {name: (answer.ok, answer.reason) for name, answer in answers.items()}


def test_a_node_that_is_up(folder: Path) -> None:
    with serving(folder, "receive-0", "receive-1", "relay", "intake"):
        answers = look(config_of(folder))
    assert all(answers[name][0] for name in NODE_CHECKS)
    assert answers["receive"] == (True, "2 of 2 processes accepting associations")
    assert answers["destination/pacs"] == (False, "1 waiting, 1 of them deferred, 1 failed")
    assert answers["destination/archive"] == (True, "nothing waits")


def test_each_thing_that_is_down_is_named(folder: Path) -> None:
    with serving(folder, "receive-1", "relay"):
        answers = look(config_of(folder))
    assert answers["receive"] == (True, "1 of 2 processes accepting associations")
    assert answers["intake"] == (False, "intake has not finished recovery")
    answers = look(config_of(folder))
    assert answers["receive"][0] is answers["relay"][0] is False
    (folder / "jobs.sqlite").rename(folder / "gone")
    (folder / "staging").rmdir()
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    answers = look(config_of(folder, spool={"min_free_bytes": 2 * free}))
    assert answers["job_table"] == (False, "there is no job table yet; the relay process makes it")
    assert not (folder / "jobs.sqlite").exists(), "looking must not make one"
    assert answers["staging"] == (False, f"{folder}/staging is not there")
    assert not answers["spool"][0]
    assert "objects are refused below" in answers["spool"][1]
    assert answers["destination/pacs"] == (False, "unknown while the job table does not answer")


def test_a_disk_that_fails_and_damage_in_the_spool_are_said(folder: Path) -> None:
    (folder / "spool/segments/aa.corrupt").touch()
    ok, reason = look(config_of(folder))["spool"]
    assert ok
    assert reason.endswith(" free; damaged segments: 1, see the log")
    (folder / "spool/segments/aa.retired").touch()
    ok, reason = look(config_of(folder))["spool"]
    assert (ok, reason) == (False, "retired segments: 1; a write or sync failed, look at the disk")


def test_what_was_deleted_from_under_the_node_is_said(folder: Path) -> None:
    (folder / "spool/free").rmdir()
    assert look(config_of(folder))["spool"] == (False, f"{folder}/spool/free is not there")
    jobs = JobTable(config_of(folder))
    jobs.ping()
    (folder / "jobs.sqlite").unlink()
    with pytest.raises(JobsError, match="is gone"):
        jobs.ping()
    jobs.close()


def test_a_job_table_that_comes_back_is_seen(folder: Path) -> None:
    config = config_of(folder)
    (folder / "jobs.sqlite").rename(folder / "away")
    jobs = JobTable(config)
    check = checks_of(config, jobs)["job_table"]
    assert not check().ok
    (folder / "away").rename(folder / "jobs.sqlite")
    assert check().ok
    jobs.close()


@pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")
def test_a_read_only_disk_is_seen_even_by_root(folder: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder / "staging")])
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        ok, reason = look(config_of(folder))["staging"]
    finally:
        subprocess.run(["umount", str(folder / "staging")], check=True)
    assert not ok
    assert "read-only" in reason


def exposed(config: Config) -> str:
    """The computed metrics now, in text format."""
    jobs, registry = JobTable(config), CollectorRegistry()
    registry.register(NodeStates(config, jobs))
    text = generate_latest(registry).decode()
    jobs.close()
    return text


def test_a_ledger_out_of_balance_shows(folder: Path) -> None:
    with sqlite3.connect(folder / "jobs.sqlite") as connection:
        connection.execute("UPDATE tally SET routed = routed + 3, received = received + 1")
    lines = exposed(config_of(folder)).splitlines()
    # A study's received one is also one more than its association told of.
    assert "relaypacs_ledger_imbalance 5.0" in lines
    shown = {line.partition('entry="')[2].partition('"')[0] for line in lines if line.startswith("relaypacs_ledger{")}
    assert shown == {one.name for one in fields(Ledger)} - {"imbalance"}
    assert 'relaypacs_ledger{entry="routed"} 6.0' in lines
    assert 'relaypacs_ledger{entry="received"} 5.0' in lines


def test_the_computed_metrics(folder: Path) -> None:
    (folder / "spool/segments/aa.tar").touch()
    (folder / "spool/segments/aa.retired").touch()
    with serving(folder, "receive-0", "relay"):
        text = exposed(config_of(folder))
    for line in (
        f'relaypacs_build_info{{python="{sys.version.split()[0]}",version="{__version__}"}} 1.0',
        'relaypacs_process_serving{process="receive-0"} 1.0',
        'relaypacs_process_serving{process="receive-1"} 0.0',
        'relaypacs_process_serving{process="intake"} 0.0',
        "relaypacs_job_table_up 1.0",
        'relaypacs_queue_deliveries{destination="pacs",state="deferred"} 1.0',
        'relaypacs_queue_deliveries{destination="pacs",state="failed"} 1.0',
        'relaypacs_queue_deliveries{destination="archive",state="queued"} 0.0',
        'relaypacs_queue_oldest_seconds{destination="archive"} 0.0',
        "relaypacs_ledger_imbalance 0.0",
        'relaypacs_ledger{entry="received"} 4.0',
        'relaypacs_ledger{entry="unrouted"} 1.0',
        'relaypacs_spool_segments{place="segments"} 1.0',
        'relaypacs_spool_segments{place="free"} 0.0',
        'relaypacs_spool_segments{place="quarantine"} 0.0',
        'relaypacs_spool_segments{place="retired"} 1.0',
    ):
        assert line in text.splitlines()
    oldest = re.search(r'^relaypacs_queue_oldest_seconds\{destination="pacs"\} (\S+)$', text, re.MULTILINE)
    assert oldest
    assert 290 < float(oldest[1]) < 400
    assert set(re.findall(r"^# TYPE (\w+) (?:gauge|counter)$", text, re.MULTILINE)) == set(STATES) - {
        "relaypacs_object_storage_up",  # this node has a folder
        "cert_expiry_seconds",  # no TLS
        "active_users",  # and no receive processes of its own
    }
    assert STUDY not in text
    if promtool := shutil.which("promtool"):
        done = subprocess.run([promtool, "check", "metrics"], input=text.encode(), capture_output=True, timeout=30)
        assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_without_the_job_table_the_rest_is_served(folder: Path) -> None:
    (folder / "jobs.sqlite").write_bytes(b"no database" * 1000)
    text = exposed(config_of(folder))
    assert "relaypacs_job_table_up 0.0" in text
    assert "relaypacs_spool_free_bytes" in text
    assert "relaypacs_ledger" not in text


def test_counts_are_not_asked_for_at_every_scrape(folder: Path) -> None:
    jobs = JobTable(config_of(folder))
    first = jobs.reading()
    assert jobs.reading() is first
    jobs.close()


_NODE = """
import os, socket, sys
from pathlib import Path
os.environ["PROMETHEUS_MULTIPROC_DIR"] = sys.argv[1] + "/run/metrics"
if os.fork() == 0:
    from prometheus_client import Counter, Gauge
    Counter("relaypacs_staged_instances_total", "As another process of the node counts.").inc(7)
    Gauge("relaypacs_associations_open", "Those of a process that died.", multiprocess_mode="livesum").set(3)
    os._exit(0)
os.wait()
Path(sys.argv[1], "run/metrics/counter_1.db").touch()  # a process is just making it
from relaypacs.node.supervisor import Stop
from relaypacs.sidecar.process import run
from tests.unit.sidecar.test_states import config_of
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
run(config_of(Path(sys.argv[1])), listener=listener, stop=Stop())
"""


def test_the_process_as_the_node_runs_it(folder: Path) -> None:
    command = [sys.executable, "-c", _NODE, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        try:
            assert ask(port, "/readyz")[0] == 503
            with serving(folder, "receive-0", "relay", "intake"):
                time.sleep(0.6)
                status, _, body = ask(port, "/readyz")
                assert status == 200, body
                assert set(json.loads(body)["checks"]) == {
                    *NODE_CHECKS,
                    "configuration",
                    "destination/pacs",
                    "destination/archive",
                }
            ask(port, "/metrics")
            metrics = ask(port, "/metrics")[2].decode()
        finally:
            process.kill()
    assert "relaypacs_staged_instances_total 7.0" in metrics
    assert 'http_requests_total{method="GET",path="/readyz",status="503"} 1.0' in metrics
    assert "http_requests_in_progress 1.0" in metrics
    assert "relaypacs_associations_open" not in metrics, "a dead process has nothing open"
    assert "relaypacs_job_table_up 1.0" in metrics
    names = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in re.findall(r"^(\w+)[ {]", metrics, re.M)}
    assert names <= set(listed())


def test_a_job_table_that_hangs_does_not_hold_a_scrape_up(folder: Path) -> None:
    jobs = JobTable(config_of(folder))
    with closing(sqlite3.connect(folder / "jobs.sqlite")) as selfish:
        selfish.execute("PRAGMA locking_mode = EXCLUSIVE")
        selfish.execute("BEGIN EXCLUSIVE")
        for longest in (READING_DEADLINE_SECONDS + 1, 0.5):  # the second time it is known to hang
            began = time.monotonic()
            with pytest.raises(JobsError, match="no answer for 3 s"):
                jobs.reading()
            assert time.monotonic() - began < longest
    jobs.close()
