"""What is kept, read back by people: `export` and `verify` from a folder and from a bucket, the spool empty."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import tarfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pydicom
import pytest

from relaypacs.cli import copies, settings
from tests.peers.dcmtk import storescu
from tests.peers.node import RELAYPACS, Node
from tests.peers.ports import wait_until
from tests.peers.seaweed import BUCKET, KEYS, SeaweedFS
from tests.samples import dataset_of, read_sample, write_mr_series

COUNT = 12


class Kept:
    """A node that has stopped, whose objects are only in staging."""

    def __init__(self, relay: Node, files: list[Path], damage: Callable[[], str]) -> None:
        self.relay, self.files, self.damage = relay, files, damage
        self.study = str(pydicom.dcmread(files[0], stop_before_pixels=True).StudyInstanceUID)

    def datasets(self) -> list[bytes]:
        """Those that were sent."""
        return sorted(dataset_of(path.read_bytes()) for path in self.files)

    def rows(self, change: str) -> None:
        """Change the job table behind the node's back."""
        with sqlite3.connect(self.relay.state_dir / "jobs.sqlite") as connection:
            connection.execute(change)


@pytest.fixture(params=["filesystem", "s3"])
def kept(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    peers: ExitStack,
    node: Callable[..., Node],
) -> Kept:
    staging: dict[str, Any] = {"hot_seconds": 0.0, "keep": "forever"}
    if request.param == "s3":
        monkeypatch.setenv("MINIO_ACCESS_KEY", KEYS[0])
        monkeypatch.setenv("MINIO_SECRET_KEY", KEYS[1])
        storage = peers.enter_context(SeaweedFS(tmp_path / "seaweed"))
        staging = storage.section(**staging)
    relay = node(sections={"staging": staging, "routing": {"default": []}})
    files = write_mr_series(tmp_path / "series", COUNT)
    assert storescu(relay.port, files).returncode == 0
    wait_until(lambda: relay.metric("relaypacs_staged_instances_total") == COUNT, "everything staged", 30)
    relay.stop()
    shutil.rmtree(relay.state_dir / "spool" / "segments")

    def damage() -> str:
        """Another last byte in one of them; its key."""
        if request.param == "filesystem":
            folder = relay.state_dir / "staging"
            path = min(folder.rglob("*.dcm"))
            path.chmod(0o600)
            path.write_bytes(changed(path.read_bytes()))
            return str(path.relative_to(folder))
        client = storage.client()
        key = min(storage.objects())
        was = client.get_object(Bucket=BUCKET, Key=key)
        client.put_object(Bucket=BUCKET, Key=key, Body=changed(was["Body"].read()), Metadata=was["Metadata"])
        return key

    return Kept(relay, files, damage)


def changed(body: bytes) -> bytes:
    return body[:-1] + bytes((body[-1] ^ 1,))


def test_a_study_comes_out_as_files_as_a_tar_and_through_a_pipe(kept: Kept, tmp_path: Path) -> None:
    relay, out = kept.relay, tmp_path / "out"
    assert relay.cli("export", kept.study, out).returncode == 0
    assert sorted(dataset_of(path.read_bytes()) for path in out.iterdir()) == kept.datasets()
    assert {path.stem for path in out.iterdir()} == {read_sample(path).sop_instance_uid for path in kept.files}
    assert relay.cli("export", kept.study, tmp_path / "out.tar").returncode == 0
    piped = tmp_path / "piped"
    with piped.open("wb") as file:
        command = [RELAYPACS, "export", kept.study, "-", "--config", relay.config_path]
        assert subprocess.run(command, stdout=file, stderr=subprocess.PIPE, timeout=60).returncode == 0
    for name in (tmp_path / "out.tar", piped):
        with tarfile.open(name) as archive:
            archive.extractall(tmp_path / f"{name.name}-files", filter="data")
        there = {path.name: path.read_bytes() for path in (tmp_path / f"{name.name}-files").iterdir()}
        assert there == {path.name: path.read_bytes() for path in out.iterdir()}


def test_verify_tells_how_far_it_is_and_looks_only_at_what_it_is_asked_for(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    relay = kept.relay
    assert relay.cli_json("verify")["good"] == COUNT
    key = kept.damage()
    verified = relay.cli("verify", "--json")
    assert verified.returncode == 1
    report = json.loads(verified.stdout.splitlines()[-1])
    assert (report["checked"], report["good"], report["missing"], report["unreadable"]) == (COUNT, COUNT - 1, [], [])
    assert [one["key"] for one in report["damaged"]] == [key]
    # The damaged one was staged three days ago.
    kept.rows(f"UPDATE instance SET staged_at = {time.time() - 3 * 86400} WHERE staged_key = '{key}'")
    recent = relay.cli("verify", "--since", "1d")
    assert (recent.returncode, recent.stdout.split()[:3]) == (0, [str(COUNT - 1), "objects", "checked,"])
    older = relay.cli("verify", "--since", "4d")
    assert older.returncode == 1
    assert f"damaged: {key}: " in older.stdout
    monkeypatch.setattr(copies, "_PROGRESS_SECONDS", 0.0)
    loaded = settings.load(relay.config_path)
    with settings.jobs_of(loaded) as store:
        assert copies.verify(loaded, store, 0.0, as_json=False) == 1
    told = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in told if " checked, " in line] == [str(number + 1) for number in range(COUNT)]
