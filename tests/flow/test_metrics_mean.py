"""The metrics and log lines that operators' documents name, on a node that works: each means what its name says."""

from __future__ import annotations

import re
from pathlib import Path

from pydicom.uid import CTImageStorage
from pynetdicom import AE

from tests.flow.test_reload import change, small_ct
from tests.peers.dcmtk import StoreScp
from tests.peers.node import Node, dimse
from tests.peers.pki import Authority
from tests.peers.ports import free_port, wait_until

KEYS = ["timestamp", "level", "service", "event", "trace_id", "user_id", "upload_id", "message", "latency_ms"]
LEVELS = {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}
OWN_WORDS = re.compile(r"[a-z0-9_/.+-]*|[0-9A-F]{4}|GET|\+Inf|CT_?\*")
SECONDS = 20.0


def associate(node: Node, calling: str) -> object:
    ae = AE(ae_title=calling)
    ae.add_requested_context(CTImageStorage, "1.2.840.10008.1.2.1")
    return ae.associate("127.0.0.1", node.port, ae_title=node.ae_title)


def test_metrics_and_log_lines_mean_what_they_are_called(tmp_path: Path) -> None:
    archive = StoreScp(tmp_path / "archive", aet="ARCHIVE")
    archive.start()
    certificate = Authority(tmp_path / "ca").issue(days=20)
    node = Node(
        tmp_path / "node",
        destinations=[dimse("archive", archive.port, "ARCHIVE", idle_seconds=0.5)],
        callers=[{"ae_title": "CT*"}],
        sections={
            "routing": {"study_quiet_seconds": 1.0},
            "log": {"level": "debug"},
            "tls": certificate.tls(listen=[f"127.0.0.1:{free_port()}"]),
        },
    )
    with node:

        def reads(sample: str, value: float) -> None:
            wait_until(lambda: node.metric(sample) == value, f"{sample} is {value}", SECONDS, every_seconds=0.2)

        association = associate(node, "CT_SECRET")
        for number in range(3):
            assert association.send_c_store(small_ct(number)).Status == 0  # type: ignore[attr-defined]
        reads("active_users", 1)
        reads("upload_init_total", 1)
        association.release()  # type: ignore[attr-defined]
        assert not associate(node, "HOSTILE_AET").is_established  # type: ignore[attr-defined]
        reads("active_users", 0)
        reads('upload_complete_total{status="complete"}', 1)
        reads("upload_duration_seconds_count", 1)
        reads('pacs_forward_total{pacs_type="dimse",status="delivered"}', 3)
        reads('relaypacs_deliveries_total{destination="archive",outcome="delivered"}', 3)
        reads('pacs_connectivity{pacs_type="dimse"}', 1)
        reads('relaypacs_destination_breaker{destination="archive"}', 0)
        reads('relaypacs_destination_window{destination="archive"}', 1)
        reads('relaypacs_queue_drain_seconds{destination="archive"}', 0)
        reads('relaypacs_associations_total{caller="CT*",outcome="released"}', 1)
        reads('relaypacs_association_rejected_total{reason="calling-ae"}', 1)
        assert 19 < node.metric('cert_expiry_seconds{use="reception"}') / 86400 < 21
        reads("relaypacs_config_version", 1)
        change(node, "CT*", "CT_*")
        assert node.cli("config", "reload").returncode == 0
        reads("relaypacs_config_version", 2)
        assert node.metric('http_requests_total{method="GET",path="/metrics",status="200"}') > 10
        assert node.metric("http_requests_in_progress") == 1, "the one that asks"
        node.get("/../etc/passwd?HOSTILE")
        # The PACS goes down.
        archive.stop()
        association = associate(node, "CT_SECRET")
        assert association.send_c_store(small_ct(9)).Status == 0  # type: ignore[attr-defined]
        association.release()  # type: ignore[attr-defined]
        reads('pacs_connectivity{pacs_type="dimse"}', 0)
        reads('relaypacs_destination_breaker{destination="archive"}', 2)
        reads('pacs_forward_total{pacs_type="dimse",status="deferred"}', 1)
        text = node.get("/metrics")[1]
    for value in re.findall(r'="([^"]*)"', text):
        assert OWN_WORDS.fullmatch(value), f"a label from elsewhere: {value}"
    for line in node.events():
        assert [key for key in line if key in KEYS] == KEYS
        assert line["level"] in LEVELS
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["timestamp"])
    assert {line["level"] for line in node.events("sidecar-request")} == {"DEBUG"}
    assert all(line["latency_ms"] >= 0 for line in node.events("sidecar-request"))
    assert {line["level"] for line in node.events("association-ended")} == {"INFO"}
    assert {line["level"] for line in node.events("association-rejected")} == {"WARNING"}
    assert {line["level"] for line in node.events("destination-down")} == {"ERROR"}
    (ended, *_) = [line for line in node.events("association-ended") if line["objects"] == 3]
    quiet = node.events("study-quiet")[0]
    assert (ended["user_id"], len(ended["trace_id"])) == ("CT_SECRET", 20)
    assert re.fullmatch("[0-9a-f]{16}", quiet["upload_id"])
    assert "1.2.826.0.1.3680043.10.1" not in node.log()
