"""`relaypacs doctor` beside a node that runs, and on set-ups that are wrong, each with its mend."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from relaypacs.cli.examine_peers import staging
from relaypacs.cli.finding import Grade
from relaypacs.config import Config, load_config
from tests.peers.dcmtk import StoreScp
from tests.peers.node import RELAYPACS, Node, dimse
from tests.peers.pki import Authority
from tests.peers.ports import free_port
from tests.peers.syslog import Collector
from tests.unit.forward.webpeer import Reply, WebPeer

BASE = """
[node]
state_dir = "{folder}/state"
[receive]
host = "127.0.0.1"
port = {port}
[sidecar]
port = {sidecar}
[spool]
min_free_bytes = {mark}
[[caller]]
ae_title = "*"
"""


def doctor(config: Path, **variables: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit code, and the findings by what was looked at."""
    done = subprocess.run(
        [str(RELAYPACS), "doctor", "--config", str(config), "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **variables},
    )
    assert done.stdout, done.stderr
    return done.returncode, {one["what"]: one for one in json.loads(done.stdout)["findings"]}


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Writes a configuration that is good but for what is given."""

    def write(more: str = "", *, folder: Path = tmp_path, port: int = 0, mark: int = 1000) -> Path:
        path = tmp_path / "relaypacs.toml"
        base = BASE.format(folder=folder, port=port or free_port(), sidecar=free_port(), mark=mark)
        path.write_text(base + more)
        return path

    return write


def test_a_node_that_runs_is_well(node: Callable[..., Node], storescp: Callable[..., StoreScp]) -> None:
    archive = storescp()
    relay = node(destinations=[dimse("archive", archive.port, archive.aet)])
    code, found = doctor(relay.config_path)
    assert code == 0, found
    assert found["destination archive"]["grade"] == "good"
    assert found["job table"]["grade"] == "good"
    assert found[f"port {relay.port}"]["sentence"].endswith("as this node should")
    assert "durable in" in found["spool sync"]["sentence"]


def _staging_as_nobody(config: Config) -> list[str]:
    if os.geteuid() == 0:
        os.setuid(65534)  # in a process of its own: root may write everywhere
    return [finding.mend for finding in staging(config) if finding.grade is Grade.FAILED]


def test_nobody_is_told_to_give_away_a_folder_above_staging(written: Callable[..., Path]) -> None:
    config = load_config(written(folder=Path("/usr/relaypacs-absent")), {})
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as alone:
        mends = alone.submit(_staging_as_nobody, config).result(timeout=60)
    assert mends == ["make /usr/relaypacs-absent/state/staging, owned by the node's user"]


def test_a_new_node_has_no_job_table_and_nobody_to_send_to(written: Callable[..., Path]) -> None:
    code, found = doctor(written())
    assert code == 0, found
    assert found["job table"]["grade"] == "note"
    assert found["destinations"]["grade"] == "warning"


def test_a_port_that_is_taken_fails(written: Callable[..., Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, found = doctor(written(port=port))
    assert (code, found[f"port {port}"]["grade"]) == (1, "failed")
    assert "something else listens there" in found[f"port {port}"]["mend"]


def test_a_destination_that_is_not_there_fails(written: Callable[..., Path]) -> None:
    more = (
        f'[[destination]]\nname = "pacs"\nkind = "dimse"\nhost = "127.0.0.1"\nport = {free_port()}\ncalled_ae = "P"\n'
    )
    code, found = doctor(written(more + '[routing]\ndefault = ["pacs"]\n'))
    assert (code, found["destination pacs"]["grade"]) == (1, "failed")
    assert "nothing listens there" in found["destination pacs"]["sentence"]


def test_no_room_fails(written: Callable[..., Path]) -> None:
    code, found = doctor(written(mark=1 << 60))
    assert (code, found["spool room"]["grade"]) == (1, "failed")
    assert "A700" in found["spool room"]["mend"]


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no tmpfs here")
def test_memory_is_no_place_for_a_spool(written: Callable[..., Path], tmp_path: Path) -> None:
    code, found = doctor(written(folder=Path("/dev/shm") / tmp_path.name))
    assert (code, found["spool file system"]["grade"]) == (1, "failed")


def test_a_job_table_that_does_not_answer_fails(written: Callable[..., Path]) -> None:
    code, found = doctor(written(), DATABASE_URL=f"postgresql://u:p@127.0.0.1:{free_port()}/x")
    assert (code, found["job table"]["grade"]) == (1, "failed")
    assert "p@" not in json.dumps(found), "the password must not be shown"


def test_a_secret_that_everyone_can_read_is_a_warning(written: Callable[..., Path], tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("x")
    secret.chmod(0o644)
    _, found = doctor(written(), PACS_TOKEN_FILE=str(secret))
    assert found["secret token"]["grade"] == "warning"
    secret.chmod(0o600)
    _, found = doctor(written(), PACS_TOKEN_FILE=str(secret))
    assert "secret token" not in found


def test_people_get_lines_with_the_mend_below(written: Callable[..., Path]) -> None:
    done = subprocess.run(
        [str(RELAYPACS), "doctor", "--config", str(written(mark=1 << 60))], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("failed  spool room: "))
    assert lines[at + 1].strip().startswith("-> make room")
    assert lines[-1].startswith("The node does not run. ")


def test_every_certificate_is_looked_at_and_so_is_the_collector(written: Callable[..., Path], tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    good, soon, gone = (authority.issue("/CN=relay.example", days=days) for days in (60, 3, -1))
    collector = Collector(
        tmp_path / "rsyslog", authority.issue("/CN=localhost"), authority.certificate, permitted="relay.example"
    )
    path = written(f"""
[tls]
listen = ["127.0.0.1:{free_port()}"]
certificate = "{soon.certificate}"
key = "{soon.key}"
[audit]
collector = "127.0.0.1:{collector.port}"
tls_ca = "{authority.certificate}"
tls_certificate = "{good.certificate}"
tls_key = "{good.key}"
[[destination]]
name = "pacs"
kind = "dimse"
host = "127.0.0.1"
port = {free_port()}
called_ae = "P"
tls = true
tls_certificate = "{gone.certificate}"
tls_key = "{gone.key}"
[[destination]]
name = "web"
kind = "dicomweb"
url = "https://127.0.0.1:{free_port()}/rs"
tls_certificate = "{tmp_path}/nowhere.pem"
""")
    text = path.read_text()
    path.write_text(text.replace("[sidecar]\n", f'[sidecar]\ncertificate = "{good.certificate}"\nkey = "{soon.key}"\n'))
    _, found = doctor(path)
    assert {what: one["grade"] for what, one in found.items() if "certificate" in what} == {
        "certificate": "warning",
        "sidecar certificate": "failed",
        "destination/pacs certificate": "failed",
        "destination/web certificate": "failed",
        "audit certificate": "good",
    }
    assert found["sidecar certificate"]["sentence"].endswith("the key does not belong to this certificate")
    assert found["destination/web certificate"]["sentence"] == f"{tmp_path}/nowhere.pem: No such file or directory"
    assert "it was valid until" in found["destination/pacs certificate"]["sentence"]
    assert found["audit collector"]["grade"] == "failed"
    with collector:
        _, found = doctor(path)
        assert found["audit collector"]["grade"] == "good", found["audit collector"]
        assert collector.lines() == []


def test_a_destination_that_only_stores_is_no_failure(written: Callable[..., Path]) -> None:
    """It refuses the search, and would take an object."""
    with WebPeer(lambda request: Reply(400 if "Content-Type" in request.headers else 403)) as peer:
        more = f'[[destination]]\nname = "web"\nkind = "dicomweb"\nurl = "{peer.url}"\n'
        _, found = doctor(written(more))
    assert found["destination web"]["grade"] == "warning"
    assert "sent there all the same" in found["destination web"]["mend"]
