"""What a node says of itself to those who connect: the worksheet for a modality, the conformance statement."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from relaypacs.cli.conformance import conformance
from relaypacs.cli.worksheet import worksheet
from relaypacs.config import Config, load_config
from relaypacs.dicom.contexts import VERIFICATION, storage_offer
from relaypacs.receive.lane import _STATUSES

TEXT = """
[node]
state_dir = "/var/lib/relaypacs"
[receive]
port = 11112
ae_titles = ["RELAYPACS", "STORE2"]
private_sop_classes = ["1.2.3.4"]
transfer_syntaxes = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.70"]
[tls]
listen = ["0.0.0.0:2762"]
certificate = "/etc/relaypacs/node.pem"
client_certificates = "required"
client_ca = "/etc/relaypacs/ca.pem"
[[caller]]
ae_title = "CT_1"
networks = ["10.1.0.0/16"]
called_ae = ["STORE2"]
sop_classes = ["CT *"]
echo = false
[[destination]]
name = "pacs"
kind = "dimse"
host = "pacs.secret.example"
port = 104
called_ae = "PACS"
[routing]
default = ["pacs"]
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    path = tmp_path / "relaypacs.toml"
    path.write_text(TEXT)
    return load_config(path, {})


def test_a_caller_is_told_its_own_part(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    assert worksheet(config, "CT_1", "relay.hospital", as_json=True) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["admitted"] is True
    assert (said["called_ae"], said["host"], said["port"], said["calling_ae"]) == (
        "STORE2",
        "relay.hospital",
        "11112",
        "CT_1",
    )
    assert said["tls_port"].startswith("2762 ")
    assert "certificate of its own" in said["tls_port"]
    assert said["networks"] == "in 10.1.0.0/16"
    assert said["services"] == "Storage (C-STORE)"
    assert said["sop_classes"] == "CT *"
    assert "1.2.840.10008.1.2.4.70" in said["transfer_syntaxes"]


def test_who_has_to_prove_itself_is_not_shown_the_plain_port(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "relaypacs.toml"
    path.write_text(
        TEXT.replace('["0.0.0.0:2762"]', '["0.0.0.0:2762", "[::]:2762"]').replace(
            "echo = false", 'echo = false\ncertificate = ["CN=ct1"]'
        )
    )
    assert worksheet(load_config(path, {}), "CT_1", "", as_json=True) == 0
    said = json.loads(capsys.readouterr().out)
    assert "port" not in said
    assert said["tls_port"].startswith("2762 (")


def test_who_is_not_admitted_is_told_how_to_be(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    assert worksheet(config, "MR_9", "", as_json=False) == 1
    said = capsys.readouterr()
    assert "RELAYPACS or STORE2" in said.out
    assert "relaypacs caller add MR_9" in said.err


def test_the_statement_says_what_is_accepted(config: Config) -> None:
    text = conformance(config)
    offer = storage_offer(config.receive.transfer_syntaxes, config.receive.private_sop_classes)
    contexts = text.partition("#### Presentation contexts accepted")[2].partition("####")[0]
    listed = set(re.findall(r"^\| [^|]+ \| ([0-9.]+) \|$", contexts, re.MULTILINE))
    assert listed == offer.storage | offer.transfer_syntaxes | {VERIFICATION}


def test_the_statement_has_every_status_that_is_answered(config: Config) -> None:
    statuses = conformance(config).partition("#### C-STORE response statuses")[2].partition("####")[0]
    told = set(re.findall(r"^\| [^|]+ \| ([0-9A-F]{4}) \|", statuses, re.MULTILINE))
    assert told == {f"{status:04X}" for status in _STATUSES}


def test_the_statement_names_no_host_and_no_caller(config: Config) -> None:
    text = conformance(config)
    assert "secret" not in text
    assert "CT_1" not in text
    assert "10.1.0.0" not in text


def test_a_concealing_node_does_not_promise_reasons(tmp_path: Path) -> None:
    path = tmp_path / "relaypacs.toml"
    path.write_text(TEXT.replace("[receive]", "[receive]\nconceal = true"))
    text = conformance(load_config(path, {}))
    assert "gets 1/1/1" in text
    assert "| 1 | 1 | 3 |" not in text


@pytest.mark.parametrize("verified", [False, True])
def test_the_statement_says_what_is_asked_of_destinations(tmp_path: Path, verified: bool) -> None:
    path = tmp_path / "relaypacs.toml"
    dimse = '[[destination]]\nname = "a"\nkind = "dimse"\nhost = "a.example"\ncalled_ae = "A"\n'
    web = '[[destination]]\nname = "b"\nkind = "dicomweb"\nurl = "https://b.example/rs"\n'
    if verified:
        dimse += 'verify = "c-find"\nmax_operations = 8\n'
        web += 'verify = "qido"\n'
    path.write_text(dimse + web)
    text = conformance(load_config(path, {}))
    yes = "yes" if verified else "no"
    assert f"| Study Root Query/Retrieve, FIND | {yes} | no |" in text
    assert f"| QIDO-RS (PS3.18) | {yes} | no |" in text
    assert ("What is missing is sent again" in text) == verified
    assert ("up to 8 operations" in text) == verified


@pytest.mark.parametrize("collected", [False, True])
def test_the_statement_says_what_is_audited_and_where_it_goes(tmp_path: Path, collected: bool) -> None:
    path = tmp_path / "relaypacs.toml"
    path.write_text('[audit]\ncollector = "syslog.example:6514"\n' if collected else "[node]\nidentifiers = false\n")
    text = conformance(load_config(path, {}))
    assert "Audit trail (PS3.15 A.5)" in text
    assert ("RFC 5425" in text) is collected
    assert ("Patients are told by Patient ID alone." in text) is collected
    assert "syslog.example" not in text
