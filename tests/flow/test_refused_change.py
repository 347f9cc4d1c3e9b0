"""A command changes the configuration and the running node refuses it: what it reads is as it was, and says why."""

from __future__ import annotations

from pathlib import Path

from tests.flow.test_reload import send, state
from tests.peers.node import Node
from tests.peers.ports import wait_until

PUT_BACK = "The node refused it, so what it reads was put back as it was"


def files(node: Node) -> dict[str, str]:
    return {one.name: one.read_text() for one in node.config_path.iterdir()}


def test_whatever_the_node_refuses_is_put_back(tmp_path: Path) -> None:
    with Node(tmp_path / "node", destinations=[], rules=[], folder_of_files=True) as node:
        first = files(node)
        # The shell has the secret, the node has not.
        words = ["destination", "add", "web", "--to", "https://w.example/rs", "--credentials-env", "NOT_THE_NODES"]
        for more in ([], ["--everything"]):
            done = node.cli(*words, *more)
            assert (done.returncode, files(node)) == (1, first), done.stdout
            assert "NOT_THE_NODES_USERNAME and NOT_THE_NODES_PASSWORD" in done.stdout
            assert PUT_BACK in done.stdout
            assert "Secrets count where the node is started" in done.stdout
            assert state(node)["rejected"] == [], "the node reads what it had, and was waited for"
        assert node.metric("relaypacs_config_rejected") == 0
        assert node.metric("relaypacs_config_version") == 1
        told = [row["kind"] for row in node.cli_json("audit")["rows"]]
        assert not {"config", "config-taken"} & set(told), "what is as it was is no change"
        # A version that lacks what is owed something.
        words = ["destination", "add", "nowhere", "--to", "127.0.0.1:9", "--called", "PACS", "--everything"]
        assert node.cli(*words).returncode == 0
        assert send(node, 1) == 0
        wait_until(lambda: node.ledger()["routed"] == 1, "owed", 20.0)
        second = files(node)
        done = node.cli("config", "rollback", "1")
        assert (done.returncode, files(node)) == (1, second), done.stdout
        assert "destination nowhere can't go" in done.stdout
        assert PUT_BACK in done.stdout
        # What is wrong may have been so before: the change is not in force, so it does not stay either.
        by_hand = '\n[[destination]]\nname = "x"\nkind = "dicomweb"\nurl = "https://x/"\n'
        by_hand += 'credentials_env = "NOT_THE_NODES"\n'
        place = node.config_path / "destination.toml"
        text = place.read_text()
        place.write_text(text + by_hand)
        third = files(node)
        for words in (["caller", "add", "MR_1"], ["caller", "remove", "*"]):
            done = node.cli(*words)
            assert (done.returncode, files(node)) == (1, third), done.stdout
        place.write_text(text)
        # And what it does not refuse stays.
        assert node.cli("caller", "add", "MR_1").returncode == 0
        assert "MR_1" in files(node)["caller.toml"]
