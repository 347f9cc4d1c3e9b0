"""A running node takes another configuration: all of its processes or none, and nobody who sends notices."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.dsutils import encode

from tests.peers.node import Node, dimse
from tests.peers.ports import wait_until
from tests.peers.raw import AC, Raw
from tests.peers.receiver import Receiver

SECONDS = 30


def state(node: Node) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((node.state_dir / "run" / "config" / "all.json").read_text())
    return told


def check(node: Node) -> tuple[int, dict[str, Any]]:
    status, body = node.get("/readyz")
    shown: dict[str, Any] = json.loads(body)["checks"]["configuration"]
    return status, shown


def change(node: Node, old: str, new: str) -> None:
    text = node.config_path.read_text()
    assert old in text
    node.config_path.write_text(text.replace(old, new, 1))


def may(node: Node, calling: str) -> bool:
    ae = AE(ae_title=calling)
    ae.add_requested_context("1.2.840.10008.1.1")
    association = ae.associate("127.0.0.1", node.port, ae_title=node.ae_title)
    established: bool = association.is_established
    if established:
        association.release()
    return established


def test_callers_log_and_limits_change_for_all_processes_and_running_associations_go_on(tmp_path: Path) -> None:
    with Node(tmp_path / "node", callers=[{"ae_title": "CT_1"}]) as node:
        assert node.metric("relaypacs_config_version") == 1
        ae = AE(ae_title="CT_1")
        ae.add_requested_context("1.2.840.10008.1.1")
        ae.add_requested_context(CTImageStorage)
        running = ae.associate("127.0.0.1", node.port, ae_title=node.ae_title)
        assert running.is_established
        change(node, 'ae_title = "CT_1"', 'ae_title = "MR_1"')
        change(node, "[receive]\n", '[log]\nlevel = "debug"\n[receive]\nmax_associations_per_ae = 2\n')
        done = node.cli("config", "reload")
        assert (done.returncode, done.stdout) == (0, "Version 2 is in force.\n"), done.stdout
        # Two receive processes share the listener: every one of many tries is answered alike.
        assert not any(may(node, "CT_1") for _ in range(8))
        assert all(may(node, "MR_1") for _ in range(8))
        assert running.send_c_echo().Status == 0
        running.release()
        ae = AE(ae_title="MR_1")
        ae.add_requested_context("1.2.840.10008.1.1")
        held = [ae.associate("127.0.0.1", node.port, ae_title=node.ae_title) for _ in range(3)]
        assert sorted(one.is_established for one in held) == [False, True, True]
        node.get("/healthz")
        wait_until(lambda: node.events("sidecar-request") != [], "a line of level debug", SECONDS)
        for one in held:
            if one.is_established:
                one.abort()
        assert node.metric("relaypacs_config_version") == 2
        # A process that is killed comes back with what is in force.
        for child in psutil.Process(node.program.pid).children():
            child.kill()
        wait_until(node.is_ready, "ready again", SECONDS)
        assert not any(may(node, "CT_1") for _ in range(8))
        assert may(node, "MR_1")


def test_a_wrong_file_is_refused_whole_and_shown(tmp_path: Path) -> None:
    with Node(tmp_path / "node", callers=[{"ae_title": "CT_1"}]) as node:
        good = node.config_path.read_text()
        change(node, 'ae_title = "CT_1"', 'ae_title = "MR_1"')
        change(node, "[receive]\n", "[receive]\nprot = 1\n")
        assert node.cli("config", "reload").returncode == 2
        os.kill(node.program.pid, signal.SIGHUP)
        wait_until(lambda: state(node)["rejected"] != [], "it was refused", SECONDS)
        assert may(node, "CT_1")
        assert not may(node, "MR_1")
        assert any("did you mean port?" in line["message"] for line in node.events("config-problem"))
        assert node.metric("relaypacs_config_rejected") == 1
        assert node.metric("relaypacs_config_version") == 1
        wait_until(lambda: not check(node)[1]["ok"], "/readyz shows it", SECONDS)
        status, shown = check(node)
        assert (status, shown["needed"], "version 1 stays in force" in shown["reason"]) == (200, False, True)
        # The way back, although the file is wrong.
        done = node.cli("config", "rollback")
        assert done.returncode == 0, done.stdout
        assert node.config_path.read_text() == good
        assert node.metric("relaypacs_config_rejected") == 0


def test_files_that_change_are_taken_without_a_signal(tmp_path: Path) -> None:
    with Node(tmp_path / "node", callers=[{"ae_title": "CT_1"}]) as node:
        added = node.cli("caller", "add", "MR_1")
        assert (added.returncode, may(node, "MR_1")) == (0, True), added.stdout
        node.config_path.write_text(node.config_path.read_text() + "# a comment\n[sidecar.nonsense]\n")
        wait_until(lambda: state(node)["rejected"] != [], "it was looked at", SECONDS)
        node.config_path.write_text(node.config_path.read_text().replace("[sidecar.nonsense]\n", ""))
        wait_until(lambda: state(node)["version"] == 3, "it was looked at again", SECONDS)


def test_what_waits_for_a_restart_is_named_and_the_rest_is_taken(tmp_path: Path) -> None:
    with Node(tmp_path / "node", callers=[{"ae_title": "CT_1"}]) as node:
        change(node, "processes = 2", "processes = 1\nstaged_timeout_seconds = 3.0")
        change(node, 'ae_title = "CT_1"', 'ae_title = "MR_1"')
        done = node.cli("config", "reload")
        assert done.returncode == 0
        assert "restart of the node: [receive] processes, [receive] staged_timeout_seconds" in done.stdout
        assert may(node, "MR_1")
        assert node.metric("relaypacs_config_waiting_options") == 2
        assert len(node.events("config-waits")) == 1
        assert len(psutil.Process(node.program.pid).children()) == 4
        change(node, 'ae_title = "MR_1"', 'ae_title = "MR_1"\nack = "staged"')
        change(node, "[spool]\n", '[staging]\nkind = "s3"\nbucket = "bucket"\n[spool]\n')
        assert node.cli("config", "reload").returncode == 1


def test_a_destination_comes_and_goes_but_not_while_it_is_owed_something(tmp_path: Path) -> None:
    with Receiver(tmp_path / "pacs") as pacs, Node(tmp_path / "node", destinations=[]) as node:
        assert send(node, 1) == 0
        wait_until(lambda: node.ledger()["unrouted"] == 1, "taken in", SECONDS)
        added = node.cli("destination", "add", "pacs", "--to", f"127.0.0.1:{pacs.port}", "--called", "RELAYPACS",
                         "--everything")  # fmt: skip
        assert added.returncode == 0, added.stdout
        assert send(node, 2) == 0
        wait_until(lambda: node.ledger()["delivered"] == 1, "delivered to the new one", SECONDS)
        assert "destination/pacs" in node.get("/readyz")[1]
        # It is moved to a port where nobody listens: what comes now is owed.
        change(node, f"port = {pacs.port}", "port = 9")
        assert node.cli("config", "reload").returncode == 0
        assert send(node, 3) == 0
        wait_until(lambda: node.ledger()["pending"] == 1, "owed", SECONDS)
        whole = node.config_path.read_text()
        entry = re.search(r"# Added by[^\[]*\[\[destination\]\].*", whole, re.DOTALL)
        assert entry is not None
        node.config_path.write_text(whole[: entry.start()])
        refused = node.cli("config", "reload")
        assert refused.returncode == 1
        assert "destination pacs can't go" in refused.stdout
        assert "discard --to pacs" in refused.stdout
        # Moved back it gets what it was owed, and then it may go.
        node.config_path.write_text(whole.replace("port = 9", f"port = {pacs.port}"))
        assert node.cli("config", "reload").returncode == 0
        assert node.cli("retry", "--to", "pacs", "--yes").returncode == 0
        wait_until(lambda: node.ledger()["pending"] == 0, "delivered", SECONDS)
        node.config_path.write_text(whole[: entry.start()])
        assert node.cli("config", "reload").returncode == 0
        wait_until(lambda: node.events("destination-gone") != [], "its workers ended", SECONDS)
        assert send(node, 4) == 0
        wait_until(lambda: node.ledger()["unrouted"] == 2, "nowhere to go", SECONDS)
        assert node.ledger()["imbalance"] == 0
        assert "destination/pacs" not in node.get("/readyz")[1]


def test_plan_history_and_rollback(tmp_path: Path) -> None:
    with Node(tmp_path / "node", destinations=[dimse("pacs", 9, "PACS"), dimse("other", 9, "OTHER")],
              rules=[{"name": "all", "to": ["pacs"]}], callers=[{"ae_title": "SENDER"}]) as node:  # fmt: skip
        for number in range(3):
            assert send(node, number) == 0
        wait_until(lambda: node.ledger()["received"] == 3, "taken in", SECONDS)
        first = node.config_path.read_text()
        new = tmp_path / "new.toml"
        new.write_text(first + "# the same\n")
        done = node.cli("config", "plan", new)
        assert (done.returncode, "Every one would go where it went." in done.stdout) == (0, True), done.stdout
        new.write_text(first.replace('to = ["pacs"]', 'modality = "CT"\nto = ["other"]').replace("SENDER", "NOBODY"))
        node_cli = node.cli("config", "plan", new, "--json")
        assert node_cli.returncode == 1
        told = json.loads(node_cli.stdout)
        assert (told["looked_at"], told["refused"], told["open"]) == (3, {"SENDER": 3}, 0)
        assert [(one["from"], one["to"], one["instances"]) for one in told["changed"]] == [("pacs", "other", 3)]
        new.write_text(first.replace('to = ["pacs"]', 'to = ["other"]\ntags = { StationName = "X" }'))
        assert json.loads(node.cli("config", "plan", new, "--json").stdout)["open"] == 3
        change(node, "SENDER", "SECOND")
        assert node.cli("config", "reload").returncode == 0
        change(node, "SECOND", "THIRD")
        assert node.cli("config", "reload").returncode == 0
        shown = json.loads(node.cli("config", "history", "--json").stdout)
        assert [(one["version"], one["in_force"]) for one in shown] == [(3, True), (2, False), (1, False)]
        assert node.cli("config", "rollback").returncode == 0
        assert 'ae_title = "SECOND"' in node.config_path.read_text()
        assert node.cli("config", "rollback", "1").returncode == 0
        assert node.config_path.read_text() == first
        assert may(node, "SENDER")
        assert node.cli("config", "rollback", "77").returncode == 2
        assert state(node)["version"] == 5


def test_nothing_is_lost_or_doubled_while_rules_change_under_traffic(tmp_path: Path) -> None:
    with Receiver(tmp_path / "a") as first, Receiver(tmp_path / "b") as second:
        destinations = [dimse("first", first.port, "RELAYPACS"), dimse("second", second.port, "RELAYPACS")]
        rules = [{"name": "all", "to": ["first"]}]
        with Node(tmp_path / "node", destinations=destinations, rules=rules, folder_of_files=True) as node:
            file = node.config_path / "rule.toml"
            sender = Raw(node.port)
            assert sender.associate(calling=b"SENDER") == AC
            numbers = itertools.count()

            def send() -> None:
                ct = small_ct(next(numbers))
                dataset = encode(ct, is_implicit_vr=False, is_little_endian=True)
                assert dataset
                assert sender.store(dataset, sop_instance=str(ct.SOPInstanceUID)) == 0

            def changed(version: int) -> bool:
                send()
                return bool(state(node)["version"] >= version)

            send()
            wait_until(lambda: bool(first.objects()), "one goes where it went before", SECONDS)
            for version, name in enumerate(("second", "first", "second"), start=2):
                for _ in range(10):
                    send()
                file.write_text(f'[[rule]]\nname = "all"\nto = ["{name}"]\n')
                os.kill(node.program.pid, signal.SIGHUP)
                wait_until(partial(changed, version), "it is changed while objects come", SECONDS)
            for _ in range(10):
                send()
            sender.release()
            sent = next(numbers)
            books = node.wait_settled(sent)
            assert (books["delivered"], books["failed"], books["imbalance"]) == (sent, 0, 0)
            assert len(first.objects()) + len(second.objects()) == sent
            assert len(second.objects()) >= 10, "what came after the last change was in force"
            assert node.events("process-died") == []


def small_ct(number: int) -> Dataset:
    ct = Dataset()
    ct.SOPClassUID, ct.SOPInstanceUID = CTImageStorage, f"1.2.826.0.1.3680043.10.1.{number + 1}"
    ct.StudyInstanceUID = ct.SeriesInstanceUID = "1.2.826.0.1.3680043.10.1"
    ct.Modality, ct.PatientID = "CT", f"P{number}"
    ct.file_meta = FileMetaDataset()
    ct.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ct


def send(node: Node, number: int) -> int:
    """Store one small CT as SENDER; its C-STORE status."""
    ae = AE(ae_title="SENDER")
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    association = ae.associate("127.0.0.1", node.port, ae_title=node.ae_title)
    assert association.is_established
    status = association.send_c_store(small_ct(number))
    association.release()
    return int(status.Status)
