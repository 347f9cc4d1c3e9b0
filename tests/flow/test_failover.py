"""PostgreSQL fails over to an asynchronous standby under a running node: what the standby had not got comes back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.test_jobs import postgres
from tests.contract.test_jobs.postgres import Postgres
from tests.peers.dcmtk import StoreScp, storescu
from tests.peers.node import Node, dimse
from tests.peers.ports import free_port, wait_until
from tests.samples import dataset_of, write_mr_series


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Postgres, Postgres]]:
    """A primary and its standby; DATABASE_URL names both."""
    binaries = postgres.debian_binaries()
    if binaries is None:
        pytest.skip("needs Debian's package postgresql")
    with Postgres(binaries, "wal_keep_size=64MB") as primary:
        primary.create_database("relay")
        with Postgres(binaries, standby_of=primary) as standby:
            hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
            monkeypatch.setenv("DATABASE_URL", f"postgresql://postgres@{hosts}/relay?target_session_attrs=read-write")
            yield primary, standby


def has_caught_up(primary: Postgres, standby: Postgres) -> bool:
    at = primary.tell("SELECT pg_current_wal_lsn()")
    return bool(standby.tell(f"SELECT pg_last_wal_replay_lsn() >= '{at}'"))


def datasets(files: list[Path]) -> list[bytes]:
    return sorted(dataset_of(path.read_bytes()) for path in files)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("lag_seconds", [0, 3600], ids=["from staging", "from the spool"])
def test_what_an_asynchronous_standby_had_not_got_comes_back(
    lag_seconds: int,
    tmp_path: Path,
    cluster: tuple[Postgres, Postgres],
    node: Callable[..., Node],
    storescp: Callable[..., StoreScp],
) -> None:
    primary, standby = cluster
    archive, down = storescp(), free_port()
    relay = node(
        destinations=[
            dimse("archive", archive.port, archive.aet, retry="1000x1s"),
            dimse("later", down, "LATER", retry="1000x1s"),
        ],
        sections={
            "staging": {"hot_seconds": 0.0},
            "spool": {"segment_bytes": 1 << 20},
            "jobs": {"standby_lag_seconds": lag_seconds, "lease_seconds": 5},
        },
    )
    sent: list[Path] = []

    def send(seed: str, count: int) -> None:
        files = write_mr_series(tmp_path / seed, count, seed=seed)
        assert storescu(relay.port, files).returncode == 0
        sent.extend(files)
        wait_until(lambda: len(archive.files()) == len(sent), "delivery to the archive", 60)

    send("known", 10)
    wait_until(lambda: relay.ledger()["delivered"] == 10, "settlements", 30)
    wait_until(lambda: has_caught_up(primary, standby), "the standby", 30)
    standby.stop_following()
    # These rows the standby will never see. Owed to `later`, they are staged, and their segments go or stay.
    send("lost", 40)
    wait_until(lambda: relay.ledger()["delivered"] == 50, "settlements", 30)
    staging, segments = relay.state_dir / "staging", relay.state_dir / "spool" / "segments"
    wait_until(lambda: len(list(staging.rglob("*.dcm"))) == 50, "staging", 30)
    if lag_seconds == 0:
        wait_until(lambda: not list(segments.glob("*.tar")), "the spool to be freed", 90)
    else:
        assert list(segments.glob("*.tar"))
    primary.crash()
    standby.promote()
    wait_until(lambda: len(relay.events("database-failed-over")) > 0, "the node to notice", 60)
    wait_until(lambda: len(relay.events("reconciled")) > 0, "the comparison with staging", 60)
    wait_until(lambda: relay.ledger()["received"] == 50, "the rows", 60)
    send("after", 5)
    later = StoreScp(tmp_path / "later", aet="LATER")
    later.port = down
    with later:
        wait_until(lambda: len(later.files()) == 55, "what was owed", 60)
        book = relay.wait_settled(55, 60)
        assert datasets(later.files()) == datasets(archive.files()) == datasets(sent)
    print(f"lag {lag_seconds}: {book}; {relay.events('reconciled')[0]['message']}")
    assert (book["received"], book["instances"], book["delivered"], book["held"], book["failed"]) == (55, 55, 110, 0, 0)
    assert book["imbalance"] == 0
    restored = int(relay.events("reconciled")[0]["restored"])
    assert (restored > 0) == (lag_seconds == 0)
    wait_until(relay.is_ready, "readiness", 30)
    time.sleep(0.1)
    assert len(relay.events("process-crashed")) == 0
