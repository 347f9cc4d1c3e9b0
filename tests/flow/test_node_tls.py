"""A whole node with TLS on both sides: several processes, IPv4 and IPv6, no plain port; a certificate that is bad."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.peers import dcmtk
from tests.peers.dcmtk import StoreScp
from tests.peers.node import RELAYPACS, Node, dimse
from tests.peers.pki import Authority, client, openssl
from tests.peers.ports import answers, free_port, wait_until
from tests.peers.raw import AC, Raw, associate_rq
from tests.samples import read_sample, write_mr_series


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki") / "ca")


def test_tls_in_and_tls_out(tmp_path: Path, authority: Authority, storescp: Callable[..., StoreScp]) -> None:
    server, modality = authority.issue(), authority.issue("/O=Clinic/CN=ct1")
    pacs = authority.issue("/CN=pacs", key_type=("rsa:2048",))
    ca = str(authority.certificate)
    scp = storescp(options=("-pm", "+tls", str(pacs.key), str(pacs.certificate), "-pw", "+cf", ca))
    port = free_port()
    node = Node(
        tmp_path / "node",
        destinations=[
            dimse(
                "pacs",
                scp.port,
                "STORESCP",
                tls=True,
                tls_ca=ca,
                tls_certificate=str(modality.certificate),
                tls_key=str(modality.key),
            )
        ],
        sections={
            "receive": {"plain": False},
            "tls": server.tls(
                listen=[f"127.0.0.1:{port}", f"[::1]:{port}"], client_ca=ca, client_certificates="required"
            ),
        },
    )
    with node:
        assert not answers(node.port), "the plain port"
        paths = write_mr_series(tmp_path / "mr", 6)
        shown = ["+tls", str(modality.key), str(modality.certificate), "-pw", "+cf", ca, "-x="]
        sent = dcmtk.storescu(port, paths, options=shown)
        assert sent.returncode == 0, sent.stdout
        wait_until(lambda: len(scp.files()) == len(paths), "delivered", 20.0)
        assert {one.name.split(".", 1)[1] for one in scp.files()} == {
            read_sample(one).sop_instance_uid for one in paths
        }

        context = client(authority, modality)
        with (
            socket.create_connection(("::1", port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="::1") as peer,
        ):
            peer.sendall(associate_rq())
            assert peer.recv(1) == bytes((AC,))

        end = openssl("x509", "-in", server.certificate, "-noout", "-enddate").strip().removeprefix("notAfter=")
        expires = datetime.strptime(end, "%b %d %H:%M:%S %Y %Z").replace(tzinfo=UTC).timestamp()
        name = 'relaypacs_tls_certificate_not_after_timestamp_seconds{use="reception"}'
        assert node.metric(name) == pytest.approx(expires, abs=1)

        half = [Raw(port, first=b"\x16\x03\x01\x02\x00\x01") for _ in range(20)]
        for pid in node.pids()[1:3]:
            node.kill(pid)  # both receive processes, in the middle of handshakes

        def welcome() -> bool:
            try:
                with Raw(port, tls=client(authority, modality)) as peer:
                    return peer.associate() == AC
            except (OSError, ssl.SSLError):
                return False

        wait_until(welcome, "a receive process again", 20.0)
        for one in half:
            one.sock.close()
    assert "Traceback" not in node.log()


def test_a_certificate_that_does_not_do_is_told_before_anything_starts(tmp_path: Path, authority: Authority) -> None:
    one, two = authority.issue(), authority.issue()
    tls = {"listen": [f"127.0.0.1:{free_port()}"], "certificate": str(one.certificate), "key": str(two.key)}
    node = Node(tmp_path / "node", sections={"tls": tls})
    done = subprocess.run(
        [RELAYPACS, "serve", "--config", node.config_path], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert "the key does not belong to this certificate" in done.stderr
    assert "Traceback" not in done.stderr
