"""When certificates that this node shows to others expire, as `/metrics` tells it."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from relaypacs.config.certificates import shown_certificates
from relaypacs.sidecar.expiries import Expiries
from relaypacs.sidecar.metrics import NodeEvents
from tests.peers.pki import Authority
from tests.unit.sidecar.test_states import config_of

DAY = 86400.0


def test_each_is_told_by_what_it_is_for_and_read_again_when_it_is_renewed(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    soon, gone = authority.issue(days=3), authority.issue(days=-1)
    pacs = {"name": "pacs", "kind": "dimse", "host": "h", "called_ae": "P", "tls": True}
    config = config_of(
        tmp_path,
        destination=[
            {**pacs, "tls_certificate": str(soon.certificate), "tls_key": str(soon.key)},
            {**pacs, "name": "broken", "tls_certificate": str(tmp_path / "nowhere.pem")},
            {**pacs, "name": "plain"},
        ],
        audit={"collector": "c:6514", "tls_certificate": str(gone.certificate), "tls_key": str(gone.key)},
    )
    expiries = Expiries(shown_certificates(config), lambda: 5 * DAY)
    assert {use: round(left / DAY) for use, left in expiries().items()} == {
        "sidecar": 5,
        "destination/pacs": 3,
        "audit": -1,
    }
    soon.certificate.write_bytes(authority.issue(days=20).certificate.read_bytes())
    assert round(expiries()["destination/pacs"] / DAY) == 20
    registry = CollectorRegistry()
    registry.register(NodeEvents(tmp_path, expiries))
    text = generate_latest(registry).decode()
    assert 'cert_expiry_seconds{use="destination/pacs"} 1.7' in text
    assert 'cert_expiry_seconds{use="audit"} -8' in text


def test_a_collector_that_is_not_named_shows_nothing(tmp_path: Path) -> None:
    assert shown_certificates(config_of(tmp_path)) == {}
