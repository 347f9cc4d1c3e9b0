"""A real tiny-pacs with its DICOMweb front: a strict PACS. It wants its own AE title and a bearer token, and refuses
what it has already (409 by STOW-RS, A700 by C-STORE)."""

from __future__ import annotations

import http.client
import json
import sys
from pathlib import Path
from typing import Any

from tests.peers.ports import answers, free_port
from tests.peers.program import Program

TOKEN = "tiny-token"


class TinyPacs:
    """Context manager: answers on `port` (DIMSE, `aet`) and `url` (STOW-RS below `/studies`)."""

    aet = "TINY_PACS"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.http_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.http_port}/dicomweb"
        self._program: Program | None = None

    def _configuration(self) -> dict[str, Any]:
        return {
            "ae": {"ae_title": [self.aet], "port": self.port, "dump_ds": False},
            "components": {
                "Database": {"on": True, "db_name": str(self.folder / "pacs.sqlite"), "mode": "rwc"},
                "Devices": {"on": True, "auto_add": True},
                "PACS": {"on": True},
                "InMemoryStorage": {"on": False},
                "FileStorage": {"on": True, "storage_dir": str(self.folder / "storage")},
                "HttpServer": {"on": True, "port": self.http_port},
                "DICOMWeb": {"on": True, "auth": "token", "tokens": [TOKEN]},
            },
        }

    def __enter__(self) -> TinyPacs:
        (self.folder / "storage").mkdir(parents=True)
        path = self.folder / "config.json"  # JSON is YAML
        path.write_text(json.dumps(self._configuration()))
        command = [sys.executable, "-m", "tiny_pacs", "run", "-c", path]
        self._program = Program(command, log_path=self.folder / "log", folder=self.folder)
        self._program.wait_ready(lambda: answers(self.port) and answers(self.http_port), 30.0)
        return self

    def __exit__(self, *_: object) -> None:
        if self._program is not None:
            self._program.stop()

    def instances(self) -> set[str]:
        """SOP Instance UIDs that it finds."""
        return {
            instance
            for study in self._find("/studies", "0020000D")
            for series in self._find(f"/studies/{study}/series", "0020000E")
            for instance in self._find(f"/studies/{study}/series/{series}/instances", "00080018")
        }

    def _find(self, path: str, tag: str) -> list[str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=20)
        headers = {"Accept": "application/dicom+json", "Authorization": f"Bearer {TOKEN}"}
        try:
            connection.request("GET", "/dicomweb" + path, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        return [] if answer.status == 204 else [one[tag]["Value"][0] for one in json.loads(body)]
