"""One trace id from the association to its deliveries: in log lines, STOW-RS requests, commands and the audit trail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.peers.dcmtk import storescu
from tests.peers.node import Node, dicomweb, dimse
from tests.peers.ports import wait_until
from tests.peers.stock import StockScp
from tests.samples import write_ct_series
from tests.unit.forward.webpeer import Reply, WebPeer, module


def test_one_trace_id_from_the_association_to_its_deliveries(tmp_path: Path, node: Callable[..., Node]) -> None:
    with (
        WebPeer(lambda request: Reply(200, module(request.uids))) as web,
        StockScp(answer=lambda _: 0x0122) as refuses,
    ):
        relay = node(
            destinations=[dicomweb("web", web.url), dimse("refuses", refuses.port, refuses.aet)],
            callers=[{"ae_title": "CT_1"}],
            sections={"routing": {"study_quiet_seconds": 1.0}},
        )
        for name in ("one", "two"):
            files = write_ct_series(tmp_path / name, 2, rows=16, columns=16, seed=name)
            assert storescu(relay.port, files, calling="CT_1").returncode == 0
        wait_until(lambda: len(relay.events("study-quiet")) == 2, "both are over", 30.0)
        traced = [request.headers["X-Trace-Id"] for request in web.requests if request.uids]
        ended = {line["trace_id"] for line in relay.events("association-ended")}
        assert len(ended) == 2
        assert set(traced) == ended
        assert {line["trace_id"] for line in relay.events("study-quiet")} == ended
        assert {line["trace_id"] for line in relay.events("delivery-failed")} == ended
        shown = relay.cli_json("associations")["associations"]
        assert {one["association_id"] for one in shown} == ended
        wait_until(lambda: len(audited(relay, "delivered")) == 2, "it is in the trail", 30.0, every_seconds=0.5)
        assert audited(relay, "delivered") == audited(relay, "received") == ended


def audited(relay: Node, kind: str) -> set[str]:
    """Associations of the trail's rows of a kind."""
    return {row["body"]["association"] for row in relay.cli_json("audit", "--kind", kind)["rows"]}
