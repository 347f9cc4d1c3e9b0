"""How a bucket is reached: addressing, TLS, the AWS chain of credentials."""

from __future__ import annotations

import datetime
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from relaypacs.config.stores import Staging
from relaypacs.errors import StagingDown
from relaypacs.staging.s3 import S3Staging
from tests.peers.faulty_s3 import FaultyS3
from tests.peers.pki import Authority
from tests.peers.seaweed import BUCKET, KEYS, SeaweedFS

KEY = "2026/01/02/study-00/11-22.dcm"
DOMAIN = "s3.hospital.example"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    with SeaweedFS(tmp_path_factory.mktemp("seaweed"), domain=DOMAIN) as server:
        yield server


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials or settings of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def staging_at(endpoint: str, scratch: Path, **options: Any) -> S3Staging:
    """Without configured credentials: the AWS chain's."""
    at = Staging(kind="s3", bucket=options.pop("bucket", BUCKET), endpoint=endpoint, attempts=1, **options)
    return S3Staging(at, lambda: None, scratch=scratch)


def carry(staging: S3Staging, content: bytes) -> bytes:
    """Put it and read it back."""
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        staging.put(KEY, file.fileno(), 0, len(content))
    with staging.open(KEY) as view:
        return bytes(view)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS[1])


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("addressing", ["virtual", "path", "auto"])
def test_the_bucket_in_the_path_or_in_the_host_name(
    server: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, addressing: str
) -> None:
    host, path = (f"{BUCKET}.{DOMAIN}", "") if addressing == "virtual" else (DOMAIN, f"/{BUCKET}")
    # A proxy spares the name service: it gets the whole URL and passes it on to the real one, which reads the name.
    with FaultyS3(server.s3_port) as proxy, monkeypatch.context() as here:
        here.setenv("HTTP_PROXY", proxy.endpoint)
        content = addressing.encode() * 100
        assert carry(staging_at(f"http://{DOMAIN}", tmp_path, addressing=addressing, prefix=addressing), content)
        asked = [one for one in proxy.requests if one.path.endswith(KEY)]
    assert [one.method for one in asked] == ["PUT", "GET"]
    assert {one.path for one in asked} == {f"http://{host}{path}/{addressing}/{KEY}"}
    assert {one.headers["Host"] for one in asked} == {host}
    assert server.client().get_object(Bucket=BUCKET, Key=f"{addressing}/{KEY}")["Body"].read() == content


@pytest.mark.usefixtures("known")
def test_a_small_object_is_one_request_that_waits_for_no_leave(server: SeaweedFS, tmp_path: Path) -> None:
    with FaultyS3(server.s3_port) as proxy:
        staging = staging_at(proxy.endpoint, tmp_path, prefix="leave")
        staging.check()
        proxy.requests.clear()
        assert carry(staging, b"x" * 100_000) == b"x" * 100_000
        put, _ = proxy.requests
    assert "Expect" not in put.headers
    assert put.headers["If-None-Match"] == "*"
    assert put.headers["x-amz-server-side-encryption"] == "AES256"


@pytest.mark.usefixtures("known")
def test_tls_with_an_authority_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, others = Authority(tmp_path / "ours"), Authority(tmp_path / "others")
    server = SeaweedFS(tmp_path / "seaweed", identity=ours.issue(), authority=ours.certificate)
    with server:
        assert server.endpoint.startswith("https://")
        bundle = staging_at(server.endpoint, tmp_path, ca_bundle=ours.certificate, prefix="a")
        assert carry(bundle, b"x") == b"x"
        for wrong in ({}, {"ca_bundle": others.certificate}):
            with pytest.raises(StagingDown, match=r"certificate is not trusted.*look at \[staging\] ca_bundle"):
                staging_at(server.endpoint, tmp_path, **wrong).check()
        with pytest.raises(StagingDown, match=r"does not answer|TLS"):
            staging_at(server.endpoint.replace("https", "http"), tmp_path).check()
        for number, variable in enumerate(("AWS_CA_BUNDLE", "SSL_CERT_FILE")):
            with monkeypatch.context() as here:
                here.setenv(variable, str(ours.certificate))
                assert carry(staging_at(server.endpoint, tmp_path, prefix=f"b{number}"), b"y") == b"y"


class Metadata:
    """A stand-in for the metadata services of a container (ECS, EKS) and of an instance (EC2, version 2)."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=6)
        document = {"AccessKeyId": KEYS[0], "SecretAccessKey": KEYS[1], "Token": "", "Code": "Success"}
        answer = json.dumps(document | {"Expiration": until.strftime("%Y-%m-%dT%H:%M:%SZ")})
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                """Nothing."""

            def _answer(self, text: str) -> None:
                asked.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def do_PUT(self) -> None:
                self._answer("a-token")

            def do_GET(self) -> None:
                listing = self.path.endswith("/security-credentials/")
                assert "/latest/" not in self.path or self.headers["X-aws-ec2-metadata-token"] == "a-token"
                self._answer("the-role" if listing else answer)

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Metadata:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


_FILE = f"[relay]\naws_access_key_id = {KEYS[0]}\naws_secret_access_key = {KEYS[1]}\n"


@pytest.mark.parametrize("source", ["environment", "named file", "profile", "home", "container", "instance", "none"])
def test_the_aws_chain_of_credentials(
    server: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    file = tmp_path / "credentials"
    file.write_text(_FILE.replace("[relay]", "[default]" if source != "profile" else "[relay]"))
    home = tmp_path / "home" / ".aws"
    home.mkdir(parents=True)
    with Metadata() as metadata:
        if source == "environment":
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS[0])
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS[1])
        elif source == "named file":
            monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
        elif source == "profile":
            monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
            monkeypatch.setenv("AWS_PROFILE", "relay")
        elif source == "home":
            (home / "credentials").write_text(file.read_text())
            (home / "config").write_text("[default]\nregion = us-east-1\n")
        elif source == "container":
            monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{metadata.url}/role")
        elif source == "instance":
            monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
            monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url)
        staging = staging_at(server.endpoint, tmp_path, prefix=source.replace(" ", "-"))
        if source == "none":
            with pytest.raises(StagingDown, match="no credentials; set MINIO_ACCESS_KEY and MINIO_SECRET_KEY"):
                staging.check()
            return
        assert carry(staging, b"x") == b"x"
        assert bool(metadata.asked) is (source in ("container", "instance"))
