"""A PACS that is down for long: what waits for it goes to another one, once; it gets its own when it returns."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.peers.dcmtk import StoreScp, storescu
from tests.peers.node import Node, dicomweb, dimse
from tests.peers.orthanc import Orthanc
from tests.peers.ports import wait_until
from tests.samples import write_mr_series

COUNT = 30


@pytest.fixture
def series(tmp_path: Path) -> list[Path]:
    return write_mr_series(tmp_path / "mr", COUNT, rows=32, columns=32)


def sent(node: Node, files: list[Path]) -> None:
    assert storescu(node.port, files).returncode == 0


def states(node: Node, study: str) -> Counter[tuple[str, str, str]]:
    rows = node.cli_json("trace", study)["instances"]
    return Counter((one["destination"], one["state"], one["fallback_of"]) for row in rows for one in row["deliveries"])


def study_of(path: Path) -> str:
    from pydicom import dcmread

    return str(dcmread(path, stop_before_pixels=True).StudyInstanceUID)


def down(storescp: Callable[..., StoreScp]) -> StoreScp:
    scp = storescp("archive")
    scp.stop()
    return scp


def test_it_goes_to_the_fallback_once_and_to_its_own_when_that_returns(
    node: Callable[..., Node],
    storescp: Callable[..., StoreScp],
    orthanc: Callable[..., Orthanc],
    series: list[Path],
    tmp_path: Path,
) -> None:
    archive, spare = down(storescp), orthanc()
    order = tmp_path / "order"
    relay = node(
        destinations=[
            dimse("archive", archive.port, archive.aet, fallback="spare", fallback_after_seconds=3, retry="50x1s"),
            dicomweb("spare", spare.dicomweb_url),
        ],
        rules=[{"name": "all", "to": ["archive"]}],
        environment={"RELAYPACS_FAILPOINT": f"@{order}"},
    )
    sent(relay, series[: COUNT // 2])
    wait_until(lambda: "what waits goes to spare" in relay.cli("queue").stdout, "the outage in the queue", 10.0)
    # The relay process dies at whatever it commits next, around the moment at which copies are made.
    for point in ("jobs.before-commit", "jobs.after-commit", "jobs.after-commit"):
        time.sleep(1.0)
        order.write_text(f"{point}:1")
    wait_until(lambda: spare.count() == COUNT // 2, "copies at the fallback", 30.0)
    relay.kill()
    relay.start()
    order.unlink(missing_ok=True)
    # What comes while it lasts goes there too, without another wait: also after kill -9 of everything.
    sent(relay, series[COUNT // 2 :])
    wait_until(lambda: spare.count() == COUNT, "late copies at the fallback", 20.0)
    wait_until(lambda: f"{COUNT} deliveries were given to spare" in relay.cli("queue").stdout, "the queue", 10.0)
    study = study_of(series[0])
    wait_until(lambda: states(relay, study)["spare", "delivered", "archive"] == COUNT, "settled", 10.0)
    assert f"{COUNT} in place of archive" in relay.cli("trace", study).stdout
    (outage,) = next(one for one in relay.queue() if one["destination"] == "archive")["outages"]
    assert (outage["fallback"], outage["given"]) == ("spare", COUNT)
    given = 'relaypacs_fallback_deliveries_total{destination="archive",fallback="spare"}'
    assert 1 <= relay.metric(given) <= COUNT

    archive.start()
    relay.wait_settled(COUNT, 90.0)
    assert states(relay, study) == {("archive", "delivered", ""): COUNT, ("spare", "delivered", "archive"): COUNT}
    assert len(archive.files()) == COUNT
    assert relay.ledger()["imbalance"] == 0
    wait_until(lambda: relay.events("fallback-ended"), "the end of the outage", 10.0)
    assert relay.queue()[0]["outages"] == []


def test_instead(node: Callable[..., Node], storescp: Callable[..., StoreScp], series: list[Path]) -> None:
    archive, spare = down(storescp), storescp("spare")
    relay = node(
        destinations=[
            dimse(
                "archive",
                archive.port,
                archive.aet,
                fallback="spare",
                fallback_after_seconds=1,
                fallback_then="instead",
            ),
            dimse("spare", spare.port, spare.aet),
        ],
        rules=[{"name": "all", "to": ["archive"]}],
    )
    sent(relay, series)
    study = study_of(series[0])
    wait_until(lambda: states(relay, study)["spare", "delivered", "archive"] == COUNT, "the fallback", 20.0)
    assert states(relay, study)["archive", "discarded", ""] == COUNT
    assert "given to spare instead" in relay.cli("trace", study).stdout
    ledger = relay.ledger()
    assert (ledger["routed"], ledger["delivered"], ledger["discarded"], ledger["imbalance"]) == (
        2 * COUNT,
        COUNT,
        COUNT,
        0,
    )
    archive.start()
    time.sleep(2.0)
    assert archive.files() == []
