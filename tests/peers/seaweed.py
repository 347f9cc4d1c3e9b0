"""A real SeaweedFS serving S3 on loopback, in a folder of its own: the object storage of the tests.

Bucket `relay` is there after `__enter__`. `stop` and `start` keep what it stores, `pause` freezes every process of it
(connections are taken, nothing is answered).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.peers.pki import Identity
from tests.peers.ports import free_port
from tests.peers.program import Program

EXECUTABLE = Path(sys.executable).with_name("weed")
BUCKET = "relay"
KEYS = ("relaypacs", "relaypacs-secret")
"""Access key and secret key that may do everything."""
READER = ("reader", "reader-secret")
"""Those that may only read and list."""
_IDENTITIES = {
    "identities": [
        {"name": name, "credentials": [{"accessKey": name, "secretKey": secret}], "actions": actions}
        for (name, secret), actions in ((KEYS, ["Admin", "Read", "Write", "List"]), (READER, ["Read", "List"]))
    ],
    "kms": {"default_provider": "local", "providers": {"local": {"type": "local", "enableOnDemandCreate": True}}},
}


class SeaweedFS:
    """Context manager. `domain`: it takes `BUCKET.<domain>` as a host name too; `identity`: it serves HTTPS with that
    certificate, which `authority` has signed."""

    def __init__(
        self, folder: Path, *, domain: str = "", identity: Identity | None = None, authority: Path | None = None
    ) -> None:
        self.folder = folder
        self.s3_port = free_port()
        self.endpoint = f"http{'s' if identity else ''}://127.0.0.1:{self.s3_port}"
        self._more = [f"-s3.domainName={domain}"] * bool(domain)
        if identity is not None:
            self._more += [f"-s3.cert.file={identity.certificate}", f"-s3.key.file={identity.key}"]
        self._authority = authority
        self._ports = {name: free_port() for name in ("master", "volume", "filer")}
        self._grpc_ports = {name: free_port() for name in ("master", "volume", "filer", "s3")}
        self._program: Program | None = None

    def start(self) -> None:
        """Start it, or start it again with what it stores; returns when it answers S3."""
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        configuration = self.folder / "s3.json"
        configuration.write_text(json.dumps(_IDENTITIES))
        ports = self._ports | {"s3": self.s3_port}
        command: list[str | Path] = [EXECUTABLE, "mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        command += [f"-s3.config={configuration}", "-s3.autoCreateBucket=false", "-s3.port.iceberg=0"]
        command += ["-s3.port.lance=0", "-admin.ui=false", "-webdav=false", "-master.telemetry=false"]
        command += self._more
        command += [f"-{name}.port={port}" for name, port in ports.items()]
        command += [f"-{name}.port.grpc={port}" for name, port in self._grpc_ports.items()]
        command += [f"-{name}.localSocket={self.folder}/{name}.sock" for name in ("filer", "s3")]
        self._program = Program(command, log_path=self.folder / "weed.log", folder=self.folder)
        self._program.wait_ready(self._ready, 60.0)

    def _ready(self) -> bool:
        # A bucket can be listed before an object can be put: it has volumes only when a write succeeds.
        with suppress(BotoCoreError, ClientError):
            client = self.client(read_timeout_seconds=1.0)
            with suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
                client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"1")
            client.delete_object(Bucket=BUCKET, Key="ready")
            return True
        return False

    def stop(self) -> None:
        """End it; connections are refused from now on."""
        if self._program:
            self._program.stop(5.0)
            self._program = None

    def pause(self) -> None:
        """Freeze it."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End a pause."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._program is None:
            raise RuntimeError("SeaweedFS is not running")
        os.killpg(self._program.pid, number)

    def __enter__(self) -> SeaweedFS:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._program:
            self._program.kill()  # nothing of it is kept
            self._program = None

    def client(self, keys: tuple[str, str] = KEYS, *, read_timeout_seconds: float = 20.0) -> Any:
        """A plain boto3 client of it, to look behind the product's back."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=keys[0],
            aws_secret_access_key=keys[1],
            verify=str(self._authority) if self._authority else None,
            config=Config(
                s3={"addressing_style": "path"},
                connect_timeout=2,
                read_timeout=read_timeout_seconds,
                retries={"mode": "standard", "total_max_attempts": 1},
                max_pool_connections=64,
            ),
        )

    def bucket(self, name: str, *, versioned: bool = False) -> str:
        """Make a bucket; its name."""
        client = self.client()
        client.create_bucket(Bucket=name)
        if versioned:
            client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        return name

    def objects(self, bucket: str = BUCKET) -> dict[str, int]:
        """Every object's size by key."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return {one["Key"]: one["Size"] for page in pages for one in page.get("Contents", ())}

    def environment(self, keys: tuple[str, str] = KEYS) -> Mapping[str, str]:
        """What a node's environment needs to use it."""
        return {"MINIO_ACCESS_KEY": keys[0], "MINIO_SECRET_KEY": keys[1]}

    def section(self, **settings: Any) -> dict[str, Any]:
        """A `[staging]` table that uses it."""
        return {"kind": "s3", "endpoint": self.endpoint, "bucket": BUCKET, **settings}
