"""A stand-in for dcm4chee-arc, which can't be installed here: it answers as its documentation and sources have it.

STOW-RS: 200 if all is stored, 202 if some is, 409 if nothing is, each with a Failure Reason for what is not, a Warning
header and an Error Comment (0000,0902) in the body, where it does not belong. A777 for a missing Patient ID, A778 for a
study that is there under another patient, by both protocols. What is there already is stored again. Access tokens of a
Keycloak; QIDO-RS answers 204 where nothing matches, 404 for an AE title it does not have.
"""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Callable
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from tests.peers.stock import Stored
from tests.unit.forward.webpeer import Reply, Request

PATIENT_ID_MISSING, PATIENT_DIFFERS = 0xA777, 0xA778
_ROOT = "/dcm4chee-arc/aets/DCM4CHEE/rs"


class Dcm4chee:
    """`web` answers a `WebPeer`'s requests, `dimse` a `StockScp`'s objects; both store into the same archive."""

    path = _ROOT

    def __init__(self, allowed: Callable[[str], bool] = lambda _authorization: True) -> None:
        """`allowed(Authorization header)`: whether its access token is good."""
        self.stored: dict[str, Dataset] = {}
        self.statuses: list[int] = []
        self._allowed = allowed
        self._patients: dict[str, str] = {}
        self._lock = threading.Lock()

    def _store(self, dataset: Dataset) -> int:
        """The status; the archive has it if it is 0."""
        patient, study = str(dataset.get("PatientID", "")), str(dataset.StudyInstanceUID)
        with self._lock:
            if not patient:
                return PATIENT_ID_MISSING
            if self._patients.setdefault(study, patient) != patient:
                return PATIENT_DIFFERS
            self.stored[str(dataset.SOPInstanceUID)] = dataset
            return 0

    def dimse(self, one: Stored) -> int:
        """The status of a C-STORE."""
        found = read_dataset(io.BytesIO(one.dataset), one.transfer_syntax_uid == "1.2.840.10008.1.2", True)
        return self._store(found)

    def web(self, request: Request) -> Reply:
        """The answer to STOW-RS and QIDO-RS."""
        path = request.path.partition("/dcm4chee-arc")
        where = path[1] + path[2]
        if not where.startswith(_ROOT + "/"):
            return Reply(404, b'{"errorMessage":"No such Application Entity"}')
        if not self._allowed(request.headers.get("Authorization", "")):
            return Reply(401)
        if request.files:
            reply = self._stow(request)
            self.statuses.append(reply.status)
            return reply
        return self._search(where)

    def _stow(self, request: Request) -> Reply:
        stored, failed = [], []
        comment = ""
        for file in request.files:
            dataset = dcmread(io.BytesIO(file))
            item: dict[str, Any] = {
                "00081150": {"vr": "UI", "Value": [str(dataset.SOPClassUID)]},
                "00081155": {"vr": "UI", "Value": [str(dataset.SOPInstanceUID)]},
            }
            if status := self._store(dataset):
                comment = "Patient ID missing in object." if status == PATIENT_ID_MISSING else "Patient ID differs"
                failed.append({**item, "00081197": {"vr": "US", "Value": [status]}})
            else:
                stored.append({**item, "00081190": {"vr": "UR", "Value": ["http://archive/…"]}})
        body: dict[str, Any] = {"00081190": {"vr": "UR"}}
        if comment:
            body["00000902"] = {"vr": "LO", "Value": [comment]}
        if failed:
            body["00081198"] = {"vr": "SQ", "Value": failed}
        if stored:
            body["00081199"] = {"vr": "SQ", "Value": stored}
        headers = {"Content-Type": "application/dicom+json", **({"Warning": comment} if comment else {})}
        status = 409 if not stored else 202 if failed else 200
        return Reply(status, json.dumps(body, ensure_ascii=True).encode(), headers)

    def _search(self, where: str) -> Reply:
        asked = re.search(r"/studies/([\d.]+)/series/([\d.]+)/instances", where)
        uids = [
            uid
            for uid, one in self.stored.items()
            if asked is None or (str(one.StudyInstanceUID), str(one.SeriesInstanceUID)) == asked.groups()
        ]
        offset = int(where.partition("offset=")[2] or 0)
        found = [{"00080018": {"vr": "UI", "Value": [uid]}} for uid in uids[offset:]]
        return Reply(200, json.dumps(found).encode()) if found else Reply(204)
