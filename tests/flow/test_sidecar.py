"""The sidecar of a running node: ready when it can do its work, honest when it can't, and cheap."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.peers.dcmtk import StoreScp, storescu
from tests.peers.node import Node, dimse
from tests.peers.ports import free_port, wait_until
from tests.samples import write_ct_series


def checks(relay: Node) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads(relay.get("/readyz")[1])["checks"]
    return found


def down(relay: Node) -> set[str]:
    """Checks that are not well."""
    return {name for name, check in checks(relay).items() if not check["ok"]}


def named(relay: Node, role: str) -> psutil.Process:
    """The process of a role, as the supervisor logged it."""
    return psutil.Process(relay.events("node-started")[-1]["processes"][role])


def test_ready_and_what_it_counts(tmp_path: Path, node: Callable[..., Node], storescp: Callable[..., StoreScp]) -> None:
    archive = storescp()
    relay = node(
        destinations=[dimse("archive", archive.port, archive.aet), dimse("down", free_port(), "DOWN", retry="5x1h")]
    )
    assert relay.get("/healthz") == (200, '{"status":"ok"}')
    assert all(check["ok"] for name, check in checks(relay).items() if check["needed"])
    files = write_ct_series(tmp_path / "series", 5, rows=64, columns=64)
    assert storescu(relay.port, files).returncode == 0
    wait_until(lambda: relay.ledger()["delivered"] == 5, "5 delivered", 30.0)
    time.sleep(5.1)  # counts are given again for 5 s
    assert relay.metric('relaypacs_ledger{entry="delivered"}') == 5
    assert relay.metric("relaypacs_ledger_imbalance") == 0
    assert relay.metric('relaypacs_deliveries_total{destination="archive",outcome="delivered"}') == 5
    assert relay.metric('relaypacs_queue_oldest_seconds{destination="archive"}') == 0
    assert relay.metric('relaypacs_queue_oldest_seconds{destination="down"}') > 0
    assert relay.get("/readyz")[0] == 200, "a destination that is down is no reason not to take objects in"
    if promtool := shutil.which("promtool"):
        text = relay.get("/metrics")[1].encode()
        done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, timeout=30)
        assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_a_relay_that_dies_is_seen_and_so_is_its_return(node: Callable[..., Node]) -> None:
    relay = node()
    # A supervisor that is stopped starts nothing anew: the time to look is as long as it takes.
    relay.program.signal(signal.SIGSTOP)
    try:
        relay.kill(_relay_pid(relay))
        wait_until(lambda: {"relay", "intake"} <= down(relay), "both are seen to be down", 10.0)
        assert relay.get("/readyz")[0] == 503
        assert relay.get("/healthz")[0] == 200
    finally:
        relay.program.signal(signal.SIGCONT)
    wait_until(relay.is_ready, "it is ready again", 20.0)


def _relay_pid(relay: Node) -> int:
    """The process that holds the relay's lock, as /proc/locks shows it."""
    inode = (relay.state_dir / "run" / "alive" / "relay").stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[1] == "FLOCK" and fields[5].endswith(f":{inode}"):
            return int(fields[4])
    raise AssertionError("nobody holds it")


def test_a_full_spool_is_seen(node: Callable[..., Node]) -> None:
    relay = node()
    free = psutil.disk_usage(str(relay.state_dir)).free
    relay.stop()
    text = relay.config_path.read_text()
    assert "min_free_bytes" in text
    relay.config_path.write_text(text.replace(f"min_free_bytes = {64 << 20}", f"min_free_bytes = {free * 2}"))
    relay.launch()
    wait_until(lambda: _answers(relay), "the sidecar answers", 20.0)
    status, body = relay.get("/readyz")
    assert status == 503
    assert "objects are refused below" in json.loads(body)["checks"]["spool"]["reason"]


def _answers(relay: Node) -> bool:
    try:
        return relay.get("/healthz")[0] == 200
    except OSError:
        return False


def test_it_sleeps_and_is_small(node: Callable[..., Node]) -> None:
    relay = node()
    relay.get("/metrics")
    sidecar = named(relay, "sidecar")
    time.sleep(1.0)
    before, waits = sidecar.cpu_times(), sidecar.num_ctx_switches().voluntary
    time.sleep(5.0)
    after = sidecar.cpu_times()
    assert after.user + after.system == before.user + before.system
    assert sidecar.num_ctx_switches().voluntary - waits <= 2
    assert sidecar.memory_full_info().pss < 60 << 20


def test_a_stuck_intake_is_seen_and_what_a_dead_worker_counted_stays(tmp_path: Path, node: Callable[..., Node]) -> None:
    relay = node(callers=[{"ae_title": "CT*"}])
    stuck = named(relay, "relay")
    files = write_ct_series(tmp_path / "series", 4, rows=64, columns=64)
    assert storescu(relay.port, files, calling="CT_7").returncode == 0
    wait_until(lambda: relay.metric('relaypacs_intake_instances_total{as="instance"}') == 4, "taken in", 20.0)
    wait_until(lambda: relay.metric("upload_init_total") > 0, "its study is counted", 10.0)
    assert relay.metric("upload_init_total") == 1
    stuck.suspend()
    try:
        # It holds its locks, and is there for everybody who doesn't ask it.
        wait_until(lambda: relay.get("/readyz")[0] == 503, "it is seen not to answer", 20.0)
        assert checks(relay)["relay"]["reason"] == "relay is stopped or hangs: it does not answer"
        assert storescu(relay.port, files[:3], calling="CT_7").returncode == 0
        time.sleep(5.1)  # counts are given again for 5 s
        for role in ("receive-0", "receive-1"):
            relay.kill(named(relay, role).pid)
        text = relay.get("/metrics")[1]
        samples = {line.rpartition(" ")[0]: line.rpartition(" ")[2] for line in text.splitlines()}
        assert float(samples["relaypacs_intake_lag_seconds"]) > 4
        assert float(samples["relaypacs_intake_backlog_bytes"]) > 3 * 64 * 64 * 2
        assert samples['relaypacs_process_serving{process="relay"}'] == "0.0"
        assert samples['relaypacs_received_objects_total{status="0000"}'] == "7.0", "a dead process' counts stay"
        assert samples['relaypacs_associations_total{caller="CT*",outcome="released"}'] == "2.0"
        assert samples["active_users"] == "0.0"
        assert float(samples['relaypacs_process_cpu_seconds_total{process="sidecar"}']) > 0
        assert "CT_7" not in text
    finally:
        stuck.resume()
    wait_until(lambda: relay.metric("relaypacs_intake_backlog_bytes") == 0, "all is taken in", 30.0)
    assert relay.metric("relaypacs_intake_lag_seconds") == 0
    wait_until(relay.is_ready, "ready again", 20.0)
