"""The logrotate file of `docs/monitoring.md`, run by logrotate while a node is busy: every line is there, whole."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.peers.node import RELAYPACS, Node
from tests.peers.ports import wait_until
from tests.peers.raw import AC, Raw

PAGE = Path(__file__).parents[2] / "docs" / "monitoring.md"
LOGROTATE = shutil.which("logrotate", path="/usr/sbin:/sbin:/usr/bin:/bin")
ROUNDS, ASKED = 6, 150


def example(log: Path) -> str:
    """What the page says to put into /etc/logrotate.d, for this file and user."""
    found = re.search(r"^```\n# /etc/logrotate.d/relaypacs\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    text, count = re.subn(r"^ +su .*\n", "", found[1], flags=re.MULTILINE)
    assert count == 1
    return text.replace("/var/log/relaypacs/relaypacs.log", str(log))


@pytest.mark.skipif(LOGROTATE is None, reason="logrotate is not installed")
def test_nothing_is_lost_or_broken_while_the_log_is_rotated(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir(mode=0o750)
    log = folder / "relaypacs.log"
    rotate = tmp_path / "logrotate.conf"
    rotate.write_text(example(log))
    rotate.chmod(0o644)
    with Node(tmp_path / "node", sections={"log": {"file": str(log), "level": "debug"}}) as node:

        def ask() -> None:
            for _ in range(ASKED):
                node.get("/healthz")

        def associate() -> None:
            for _ in range(ASKED):
                with Raw(node.port) as peer:
                    assert peer.associate() == AC
                    peer.release()

        traffic = [threading.Thread(target=one) for one in (ask, associate, associate)]
        for one in traffic:
            one.start()
        rounds = 0
        while rounds < ROUNDS or any(one.is_alive() for one in traffic):
            wait_until(lambda: log.exists() and log.stat().st_size > 0, "the node writes again", 20.0)
            command = [str(LOGROTATE), "-f", "-s", str(tmp_path / "state"), str(rotate)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            rounds += 1
            node.get("/healthz")  # the last one has something to write, too
        for one in traffic:
            one.join()
        wait_until(log.exists, "the node makes it anew", 20.0)  # its line follows the answer
    files = list(folder.iterdir())
    assert any(one.suffix == ".gz" for one in files)
    assert node.log() == "", "nothing goes to standard error beside it"
    texts = [gzip.decompress(one.read_bytes()) if one.suffix == ".gz" else one.read_bytes() for one in files]
    assert all(text.endswith(b"\n") for text in texts if text)
    lines = [json.loads(line) for text in texts for line in text.decode().splitlines()]
    events = Counter(line["event"] for line in lines)
    asked = sum(line["event"] == "sidecar-request" and "healthz" in json.dumps(line) for line in lines)
    assert asked == ASKED + rounds
    assert events["association-ended"] == 2 * ASKED
    assert len({line["trace_id"] for line in lines if line["event"] == "association-ended"}) == 2 * ASKED
    assert events["node-started"] == events["node-stopped"] == 1


def test_a_file_that_can_t_be_written_is_said_before_anything_starts(tmp_path: Path) -> None:
    node = Node(tmp_path / "node", sections={"log": {"file": str(tmp_path / "nowhere" / "relaypacs.log")}})
    done = subprocess.run([RELAYPACS, "serve", "-c", node.config_path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == (
        f"relaypacs: [log] file: {tmp_path}/nowhere/relaypacs.log can't be written (No such file or directory); "
        "name one this user may write\n"
    )


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_the_service_file_holds_only_what_systemd_knows(tmp_path: Path) -> None:
    unit = tmp_path / "relaypacs.service"
    text = (PAGE.parents[1] / "conf" / "relaypacs.service").read_text()
    unit.write_text(text.replace("/opt/relaypacs/bin/relaypacs", "/bin/true").replace("=relaypacs\n", "=root\n"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60)
    assert [line for line in done.stderr.splitlines() if "relaypacs.service" in line] == []
