"""`queue` and `trace` beside a running node say what each delivery waits for."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from tests.flow.test_reload import send
from tests.peers.node import RELAYPACS, Node, dimse
from tests.peers.ports import free_port, wait_until

TOKEN = "a-token-of-the-sidecar-0123"


def test_what_deliveries_wait_for(tmp_path: Path) -> None:
    begin, end = (time.strftime("%H:%M", time.localtime(time.time() + hours * 3600)) for hours in (3, 5))
    destinations = [
        dimse("down", free_port(), "DOWN"),
        dimse("night", free_port(), "NIGHT", send_between=f"{begin}-{end}"),
        dimse("kept", free_port(), "KEPT", send_between=f"{begin}-{end}"),
    ]
    with Node(tmp_path / "node", destinations=destinations, sections={"sidecar": {"token": TOKEN}}) as node:
        assert [send(node, number) for number in range(3)] == [0, 0, 0]
        wait_until(lambda: node.ledger()["routed"] == 9, "taken in", 20.0)
        assert node.cli("hold", "--to", "kept", "--yes").returncode == 0

        def waits() -> dict[str, dict[str, str]]:
            return {row["destination"]: row["waits_for"] for row in node.queue()}

        wait_until(lambda: "down to answer" in " ".join(waits()["down"].values()), "its pause is seen", 20.0)
        found = waits()
        assert found["night"]["queued"].startswith(f"its hours ({begin}-{end}), which begin in ")
        assert found["kept"] == {"held": "a person: `relaypacs release --to kept`, or `discard`"}
        text = " ".join(node.cli("queue").stdout.split())
        assert "down to answer: it is paused after trouble" in text
        assert f"night: 3 queued wait for its hours ({begin}-{end}), which begin in" in text
        study = "1.2.826.0.1.3680043.10.1"
        shown = " ".join(node.cli("trace", study).stdout.split())
        assert "waits for down to answer: it is paused" in shown
        assert f"waits for its hours ({begin}-{end})" in shown
        assert set(node.cli_json("trace", study)["waits_for"]) == {"down", "night"}
        # Who has no token is told what the files say.
        text = node.config_path.read_text()
        other = tmp_path / "other.toml"
        other.write_text(text.replace(TOKEN, TOKEN[::-1]))
        done = subprocess.run([RELAYPACS, "queue", "-c", other], capture_output=True, text=True, check=True)
        assert "night: 3 queued wait for its hours" in done.stdout
        assert "to answer" not in done.stdout
        node.stop()
        assert "3 queued wait for the node: its relay process is not running" in node.cli("queue").stdout
