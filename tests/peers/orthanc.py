"""A real Orthanc with its DICOMweb plugin, in a folder of its own.

It runs as users run it: no `TCP_NODELAY` in its environment unless a test asks, an SQLite index, files on disk.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.peers.ports import free_port
from tests.peers.program import Program

EXECUTABLE = Path("/usr/sbin/Orthanc")
_PLUGINS = Path("/usr/share/orthanc/plugins")


class Orthanc:
    """Context manager. Keyword arguments override settings of Orthanc's configuration by their own names.

    `folder` is created; it holds the configuration, the storage and `orthanc.log`. After `__enter__` it answers on
    `dicom_port` (DIMSE, AE title `aet`), `http_url` (REST) and `dicomweb_url` (STOW-RS below `/studies`).
    """

    def __init__(
        self, folder: Path, *, aet: str = "ORTHANC", environment: Mapping[str, str] | None = None, **settings: Any
    ) -> None:
        self.folder = folder
        self.aet = aet
        self.dicom_port = free_port()
        self.http_port = free_port()
        self.http_url = f"http://127.0.0.1:{self.http_port}"
        self.dicomweb_url = f"{self.http_url}/dicom-web"
        self._environment = dict(environment or {})
        self._settings = settings
        self._program: Program | None = None

    def configuration(self) -> dict[str, Any]:
        """The settings Orthanc is started with."""
        plugins = [str(_PLUGINS / "libOrthancDicomWeb.so")]
        return {
            "Name": self.aet,
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "Plugins": plugins,
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomPort": self.dicom_port,
            "DicomAet": self.aet,
            "DicomCheckCalledAet": False,
            "DicomAlwaysAllowStore": True,
            "UnknownSopClassAccepted": True,
            "OverwriteInstances": False,
            "StableAge": 1,
            "ConcurrentJobs": 1,
            **self._settings,
        }

    def start(self) -> None:
        """Start it, or start it again on the same ports and storage; returns when it answers HTTP and DIMSE."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps(self.configuration(), indent=1))
        self._program = Program(
            [EXECUTABLE, path], log_path=self.folder / "orthanc.log", environment=self._environment, folder=self.folder
        )
        self._program.wait_ready(self._ready, 20.0)

    def _ready(self) -> bool:
        try:
            return bool(self.get_json("/system")["DicomAet"])
        except (OSError, http.client.HTTPException):
            return False

    def stop(self) -> None:
        """End it, gently only for a moment: by itself it takes 3.5 s, or a minute with an association open."""
        if self._program:
            self._program.stop(0.1)
            self._program = None

    @property
    def program(self) -> Program:
        """The running Orthanc; RuntimeError when it isn't."""
        if self._program is None:
            raise RuntimeError("Orthanc is not running")
        return self._program

    def __enter__(self) -> Orthanc:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def get(self, path: str) -> bytes:
        """Body of a GET of the REST API; RuntimeError unless it is 200."""
        return self._request("GET", path)

    def _request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=60)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            answered = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise RuntimeError(f"Orthanc answered {answer.status} to {method} {path}")
        return answered

    def clear(self) -> None:
        """Delete everything it stores."""
        patients = self.get_json("/patients")
        if patients:
            self._request("POST", "/tools/bulk-delete", json.dumps({"Resources": patients}).encode())

    def get_json(self, path: str) -> Any:
        """Decoded body of a GET of the REST API."""
        return json.loads(self.get(path))

    def instance_ids(self) -> list[str]:
        """Orthanc's own identifier of every instance it stores."""
        ids: list[str] = self.get_json("/instances")
        return ids

    def count(self) -> int:
        """How many instances it stores."""
        return int(self.get_json("/statistics")["CountInstances"])

    def file(self, instance_id: str) -> bytes:
        """The DICOM file of an instance exactly as Orthanc stores it (Part 10)."""
        return self.get(f"/instances/{instance_id}/file")

    def instances(self) -> dict[str, str]:
        """SOP Instance UID to Orthanc's identifier, for every instance it stores."""
        return {one["MainDicomTags"]["SOPInstanceUID"]: one["ID"] for one in self.get_json("/instances?expand")}

    def files(self) -> dict[str, bytes]:
        """SOP Instance UID to stored DICOM file, for every instance. For tests that store little."""
        return {uid: self.file(one) for uid, one in self.instances().items()}
