"""The rules of `conf/prometheus`, evaluated by promtool: each alert fires when it should and is silent otherwise."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.unit.sidecar.test_metrics_page import listed

FOLDER = Path(__file__).parents[3] / "conf" / "prometheus"
RULES = ("recording.yml", "alerts.yml")
NODE = 'instance="a:8080",job="relaypacs"'


class Case(NamedTuple):
    """Series (name and labels: values, one a minute) that make an alert fire, and others that don't, at `minute`."""

    fires: dict[str, str]
    silent: dict[str, str]
    minute: int = 30
    also: tuple[dict[str, str], ...] = ()
    """What else makes it fire, each on its own: the other sides of an `or`."""


def _steady(
    name: str, labels: str, bad: str, good: str, minute: int = 30, *, also: tuple[dict[str, str], ...] = ()
) -> Case:
    """A gauge that is bad all the time, or good."""
    series = f"{name}{{{NODE}{labels}}}"
    return Case({series: f"{bad}x{minute}"}, {series: f"{good}x{minute}"}, minute, also)


def _responses(fast: int, slow: int) -> dict[str, str]:
    """C-STORE responses a minute, within 0.1 s and within 2.5 s."""
    name = "relaypacs_cstore_response_seconds_bucket"
    return {
        f'{name}{{{NODE},le="0.1"}}': f"0+{fast}x30",
        f'{name}{{{NODE},le="2.5"}}': f"0+{fast + slow}x30",
        f'{name}{{{NODE},le="+Inf"}}': f"0+{fast + slow}x30",
    }


def _ratio(name: str, labels: str, good: tuple[str, int], bad: tuple[str, int]) -> dict[str, str]:
    """Counters, so many of each label value a minute."""
    return {f'{name}{{{NODE}{labels},status="{status}"}}': f"0+{count}x60" for status, count in (good, bad) if count}


OBJECTS = "relaypacs_received_objects_total"
CASES = {
    "NodeDown": _steady("up", "", "0+0", "1+0"),
    "NodeNotReady": Case(
        {f"relaypacs_ready{{{NODE}}}": "1 0+0x9"}, {f"relaypacs_ready{{{NODE}}}": "1x3 0 1x9"}, minute=8
    ),
    "DatabaseDown": Case(
        {f"relaypacs_job_table_up{{{NODE}}}": "0+0x9", 'up{instance="pg:9187",job="postgres"}': "1+0x9"},
        {f"relaypacs_job_table_up{{{NODE}}}": "1+0x9", 'up{instance="pg:9187",job="postgres"}': "1+0x9"},
        minute=5,
        also=({f"relaypacs_job_table_up{{{NODE}}}": "1+0x9", 'up{instance="pg:9187",job="postgres"}': "0+0x9"},),
    ),
    "LedgerImbalance": Case(
        {f"relaypacs_ledger_imbalance{{{NODE}}}": "2+0x30"}, {f"relaypacs_ledger_imbalance{{{NODE}}}": "0 2 2 0+0x30"}
    ),
    "StagedObjectDamaged": Case(
        {f"relaypacs_staging_damaged_total{{{NODE}}}": "0x5 1x30"},
        {f"relaypacs_staging_damaged_total{{{NODE}}}": "1x30"},
        also=({f"relaypacs_spool_damage_total{{{NODE}}}": "0x5 1x30"},),
    ),
    "SpoolFull": Case(
        {f"relaypacs_spool_free_bytes{{{NODE}}}": "999x30", f"relaypacs_spool_min_free_bytes{{{NODE}}}": "1000x30"},
        {f"relaypacs_spool_free_bytes{{{NODE}}}": "1000x30", f"relaypacs_spool_min_free_bytes{{{NODE}}}": "1000x30"},
    ),
    "IntakeStuck": Case(
        {f"relaypacs_intake_lag_seconds{{{NODE}}}": "0+60x30"},
        # Behind, but it comes on.
        {f"relaypacs_intake_lag_seconds{{{NODE}}}": "0+60x6 200x30"},
    ),
    "HighErrorRate": Case(
        {f'{OBJECTS}{{{NODE},status="0000"}}': "0+90x30", f'{OBJECTS}{{{NODE},status="A700"}}': "0+10x30"},
        {
            f'{OBJECTS}{{{NODE},status="0000"}}': "0+99x30",
            f'{OBJECTS}{{{NODE},status="A700"}}': "0+1x30",
            # A node that is not ready says so as often as it is asked.
            f'http_requests_total{{{NODE},method="GET",path="/readyz",status="503"}}': "0+60x30",
        },
        also=({f'http_requests_total{{{NODE},method="GET",path="/metrics",status="500"}}': "0+4x30"},),
    ),
    "PacsConnectivityLost": Case(
        {f'pacs_connectivity{{{NODE},pacs_type="dimse"}}': "1 0+0x9"},
        {f'pacs_connectivity{{{NODE},pacs_type="dimse"}}': "1x4 0x4 1x3"},
        minute=7,
    ),
    "BacklogOld": _steady("relaypacs_queue_oldest_seconds", ',destination="pacs"', "3700+60", "10+60"),
    "DeadLetters": _steady("relaypacs_queue_deliveries", ',destination="pacs",state="failed"', "1+0", "0+0"),
    "PacsLosesObjects": Case(
        {f'relaypacs_verified_missing_total{{{NODE},destination="pacs"}}': "0x5 2x30"},
        {f'relaypacs_verified_missing_total{{{NODE},destination="pacs"}}': "2x30"},
    ),
    "SpoolFillsSoon": Case(
        {
            f"relaypacs_spool_free_bytes{{{NODE}}}": "100000-500x60",
            f"relaypacs_spool_min_free_bytes{{{NODE}}}": "1000x60",
        },
        {
            f"relaypacs_spool_free_bytes{{{NODE}}}": "100000-50x60",
            f"relaypacs_spool_min_free_bytes{{{NODE}}}": "1000x60",
        },
        minute=60,
    ),
    "StagingDown": _steady(
        "relaypacs_object_storage_up", "", "0+0", "1+0", also=({f"relaypacs_sweep_trouble{{{NODE}}}": "1+0x30"},)
    ),
    "SpoolDamaged": _steady("relaypacs_spool_segments", ',place="damaged"', "1+0", "0+0"),
    "ProcessNotServing": _steady("relaypacs_process_serving", ',process="relay"', "0+0", "1+0"),
    "CertificateExpiresNow": _steady("cert_expiry_seconds", ',use="reception"', "100000-60", "300000-60"),
    "CertificateExpiresSoon": _steady("cert_expiry_seconds", ',use="reception"', "1000000-60", "9000000-60", 70),
    "CertificateUnusable": _steady("relaypacs_tls_certificate_unusable", ',use="reception"', "1+0", "0+0"),
    "ConfigRejected": _steady("relaypacs_config_rejected", "", "1+0", "0+0"),
    "RedisDown": _steady("relaypacs_redis_up", ',process="relay"', "0+0", "1+0"),
    "SlowResponses": Case(
        _responses(fast=90, slow=10), _responses(fast=1000, slow=1), also=(_responses(fast=980, slow=20),)
    ),
    "AuditChainBroken": _steady("relaypacs_audit_chain_broken", "", "1+0", "0+0"),
    "AuditTrailLate": _steady(
        "relaypacs_audit_told_timestamp_seconds",
        "",
        "60+0",
        "0+60",
        also=({f"relaypacs_audit_trouble{{{NODE}}}": "1+0x30"},),
    ),
    "AuditUnsent": Case(
        {f"relaypacs_audit_oldest_unsent_timestamp_seconds{{{NODE}}}": "60+0x80"},
        # What waits is young, then there is nothing.
        {f"relaypacs_audit_oldest_unsent_timestamp_seconds{{{NODE}}}": "60+60x70 0+0x10"},
        minute=75,
    ),
    "UploadSuccessLow": Case(
        _ratio("upload_complete_total", "", ("complete", 98), ("incomplete", 2)),
        _ratio("upload_complete_total", "", ("complete", 199), ("incomplete", 1)),
        minute=40,
        also=(_ratio(OBJECTS, "", ("0000", 98), ("A700", 2)),),
    ),
    "ForwardSuccessLow": Case(
        _ratio("pacs_forward_total", ',pacs_type="dimse"', ("delivered", 97), ("deferred", 3)),
        _ratio("pacs_forward_total", ',pacs_type="dimse"', ("delivered", 99), ("deferred", 1)),
        minute=40,
    ),
    "UptimeLow": Case({f"relaypacs_ready{{{NODE}}}": "0x2 1x90"}, {f"relaypacs_ready{{{NODE}}}": "1x90"}, minute=60),
    "UnroutedInstances": _steady("relaypacs_instances_marked", ',mark="unrouted"', "3+0", "0+0"),
    "Conflicts": _steady("relaypacs_instances_marked", ',mark="conflict"', "3+1", "3+0"),
    "SecretOld": _steady("relaypacs_secret_age_seconds", ',secret="REDIS_URL"', "7776001+60", "60+60", 70),
}

if shutil.which("promtool") is None:
    pytest.skip("promtool is not installed", allow_module_level=True)


def _promtool(*words: str | Path) -> None:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def _expressions() -> str:
    """The rules without comments and annotations."""
    text = "\n".join((FOLDER / name).read_text() for name in RULES)
    return re.sub(r"^\s*(#|summary:|action:).*$", "", text, flags=re.MULTILINE)


def test_files_are_valid() -> None:
    _promtool("check", "config", FOLDER / "prometheus.yml")
    _promtool("check", "rules", *(FOLDER / name for name in RULES))


def test_as_shipped_no_alert_fires_for_an_exporter_that_is_not_there() -> None:
    jobs = re.findall(r"^\s*- job_name: (\w+)$", (FOLDER / "prometheus.yml").read_text(), re.MULTILINE)
    assert jobs == ["relaypacs"]


def test_every_alert_has_a_case_and_a_severity() -> None:
    alerts = re.findall(r"- alert: (\w+)\n(.*?)labels: {severity: (P[1-4])}", _expressions(), re.DOTALL)
    assert {name for name, *_ in alerts} == set(CASES) == set(re.findall(r"alert: (\w+)", _expressions()))
    # Both sides of an `or` make it fire.
    sides = {name: len(re.findall(r"\bor\b", expression)) for name, expression, _ in alerts}
    assert {name: len(case.also) for name, case in CASES.items()} == sides


def test_the_page_lists_every_alert_under_its_severity() -> None:
    page = (FOLDER.parents[1] / "docs" / "monitoring.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (P[1-4]) \| [^|]+ \| [^|]+ \| ([^|]+) \|$", page, re.MULTILINE)
    listed_under = {name: severity for severity, names in rows for name in names.split(", ")}
    alerts = re.findall(r"- alert: (\w+)\n.*?labels: {severity: (P[1-4])}", _expressions(), re.DOTALL)
    assert listed_under == dict(alerts)


def test_rules_ask_for_metrics_there_are() -> None:
    asked = set(re.findall(r"\b(?:relaypacs|upload|pacs|http|cert)_[a-z0-9_]+\b", _expressions()))
    recorded = {part for name in re.findall(r"record: (\S+)", _expressions()) for part in name.split(":")}
    histograms = {re.sub(r"_bucket$", "", name) for name in asked}
    unknown = histograms - set(listed()) - recorded - {"pacs_type"}
    assert not unknown


def test_each_alert_fires_and_is_silent_as_it_should(tmp_path: Path) -> None:
    tests: list[dict[str, Any]] = []
    for name, case in CASES.items():
        firing = f'count(ALERTS{{alertname="{name}",alertstate="firing"}})'
        fires = [{"labels": "{}", "value": 1}]
        for series, expected in (*((one, fires) for one in (case.fires, *case.also)), (case.silent, [])):
            tests.append(
                {
                    "name": f"{name}: {'fires' if expected else 'silent'}",
                    "interval": "1m",
                    "input_series": [{"series": one, "values": values} for one, values in series.items()],
                    "promql_expr_test": [{"expr": firing, "eval_time": f"{case.minute}m", "exp_samples": expected}],
                }
            )
    file = tmp_path / "alerts.json"  # JSON is YAML
    rules = [str(FOLDER / one) for one in RULES]
    file.write_text(json.dumps({"rule_files": rules, "evaluation_interval": "1m", "tests": tests}))
    _promtool("test", "rules", file)


@pytest.mark.skipif(shutil.which("amtool") is None, reason="amtool is not installed")
def test_alertmanager_takes_its_file_and_wakes_somebody_up_for_what_is_urgent() -> None:
    file = FOLDER / "alertmanager.yml"
    checked = subprocess.run(["amtool", "check-config", file], capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    for severity, receiver in (("P1", "pager"), ("P2", "pager"), ("P3", "mail"), ("P4", "mail")):
        routed = subprocess.run(
            ["amtool", "config", "routes", "test", f"--config.file={file}", f"severity={severity}"],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert routed.stdout.strip() == receiver, severity


def test_what_alertmanager_inhibits_are_alerts_there_are() -> None:
    text = (FOLDER / "alertmanager.yml").read_text()
    named = {name for names in re.findall(r'alertname=~?"([^"]+)"', text) for name in names.split("|")}
    assert named
    assert named <= set(CASES)
