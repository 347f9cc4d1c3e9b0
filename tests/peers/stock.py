"""Stock pynetdicom as a peer: an SCP in threads of the test's process, and its own `storescu` program."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pynetdicom import AE, AllStoragePresentationContexts, _config, build_context, evt
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from tests.peers.dcmtk import run
from tests.peers.ports import free_port
from tests.samples import Sample

SECOND_TIME = ", sent twice"


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as the SCP saw it: `dataset` is its encoded dataset as received."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_ae: str
    dataset: bytes


def _accept(_stored: Stored) -> int:
    return 0x0000


class StockScp:
    """Context manager: a pynetdicom storage SCP that keeps what it takes in `stored`.

    `answer(Stored) -> status` decides each C-STORE's status (it may sleep, to be slow); only objects answered with
    0x0000 or a warning are kept. `refused` counts the others. `transfer_syntaxes` limits what is accepted.
    """

    def __init__(
        self,
        *,
        aet: str = "STOCK",
        answer: Callable[[Stored], int] = _accept,
        transfer_syntaxes: Sequence[str] = (),
        max_pdu_bytes: int = 16382,
    ) -> None:
        self.aet = aet
        self.port = free_port()
        self.stored: list[Stored] = []
        self.refused = 0
        self.associations = 0
        self._answer = answer
        self._lock = threading.Lock()
        self._ae = AE(ae_title=aet)
        self._ae.maximum_associations = 50
        self._ae.maximum_pdu_size = max_pdu_bytes
        self._ae.supported_contexts = [_context(one, transfer_syntaxes) for one in AllStoragePresentationContexts]
        self._ae.add_supported_context(Verification)
        self._server: Any = None

    def _on_store(self, event: Any) -> int:
        request = event.request
        one = Stored(
            str(request.AffectedSOPClassUID),
            str(request.AffectedSOPInstanceUID),
            str(event.context.transfer_syntax),
            event.assoc.requestor.ae_title,
            event.encoded_dataset(include_meta=False),
        )
        status = self._answer(one)
        with self._lock:
            if status == 0 or status & 0xF000 == 0xB000:  # PS3.7 C.1: success, warning
                self.stored.append(one)
            else:
                self.refused += 1
        return status

    def _on_accepted(self, _event: Any) -> None:
        with self._lock:
            self.associations += 1

    def __enter__(self) -> StockScp:
        handlers: list[Any] = [(evt.EVT_C_STORE, self._on_store), (evt.EVT_ACCEPTED, self._on_accepted)]
        self._server = self._ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()

    def wait_stored(self, count: int, timeout_seconds: float = 30.0) -> None:
        """Return when at least `count` objects are stored; TimeoutError otherwise."""
        end = time.monotonic() + timeout_seconds
        while len(self.stored) < count:
            if time.monotonic() > end:
                raise TimeoutError(f"{len(self.stored)} of {count} objects after {timeout_seconds:g} s")
            time.sleep(0.02)


def _context(context: PresentationContext, transfer_syntaxes: Sequence[str]) -> PresentationContext:
    one = PresentationContext()
    one.abstract_syntax = context.abstract_syntax
    one.transfer_syntax = list(transfer_syntaxes) or list(context.transfer_syntax)
    return one


def storescu(
    port: int,
    paths: Sequence[Path],
    *,
    called: str = "RELAYPACS",
    calling: str = "STORESCU",
    options: Sequence[str] = (),
    timeout_seconds: float = 120.0,
) -> subprocess.CompletedProcess[str]:
    """pynetdicom's own `storescu` program, to 127.0.0.1."""
    command = [sys.executable, "-m", "pynetdicom", "storescu", "127.0.0.1", str(port), *map(str, paths)]
    return run([*command, "-aet", calling, "-aec", called, *options], timeout_seconds)


def send_exactly(
    port: int,
    sent: Sequence[Sample],
    *,
    called: str = "RELAYPACS",
    calling: str = "STOCK",
    response_timeout_seconds: float = 30.0,
) -> list[str]:
    """Send files byte for byte with pynetdicom as a storage SCU; what each was answered, in order.

    That is the C-STORE status in hexadecimal (`0000`), `no context` when the peer accepts none for the file's SOP
    class and transfer syntax, or `no answer` when the association ended instead.

    A file without answer is sent once more, on a new association, and what that gave has `SECOND_TIME` behind it:
    stock pynetdicom's reactor thread now and then takes away the answer that `send_c_store` waits for (between its
    `_reactor_checkpoint.set()` and the next `clear()`, when the machine is busy).
    """
    contexts = list(dict.fromkeys((one.sop_class_uid, one.transfer_syntax_uid) for one in sent))
    ae = AE(ae_title=calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = response_timeout_seconds
    proposed = [build_context(*context) for context in contexts]
    association: Any = None
    answers: list[str] = []
    before, _config.STORE_SEND_CHUNKED_DATASET = _config.STORE_SEND_CHUNKED_DATASET, True
    try:
        for one in sent:
            if association is None or not association.is_established:
                association = ae.associate("127.0.0.1", port, proposed, ae_title=called)
            answer = _store(association, one)
            if answer == "no answer":
                association.abort()
                association = ae.associate("127.0.0.1", port, proposed, ae_title=called)
                answer = _store(association, one) + SECOND_TIME
                if answer.startswith("no answer"):
                    association.abort()
            answers.append(answer)
    finally:
        _config.STORE_SEND_CHUNKED_DATASET = before
    if association is not None and association.is_established:
        association.release()
    return answers


def _store(association: Any, one: Sample) -> str:
    if not association.is_established:
        return "no association"
    accepted = {(context.abstract_syntax, context.transfer_syntax[0]) for context in association.accepted_contexts}
    if (one.sop_class_uid, one.transfer_syntax_uid) not in accepted:
        return "no context"
    status = association.send_c_store(one.path)
    return f"{status.Status:04X}" if "Status" in status else "no answer"
