"""The plain relay on stock pynetdicom that `scripts/bench relay` compares with: SCP handler, file, `send_c_store`.

    python scripts/lib/bench_stock_relay.py PORT FOLDER DESTINATION_PORT CALLED_AE

As its documentation shows both halves, each in pynetdicom's chunked mode (its fastest): the handler moves the file to
where it belongs and answers; one thread sends file after file on one association. Nothing is durable, nothing is
tracked, a refusal is only counted.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import tempfile
import threading
from pathlib import Path

from pynetdicom import AE, AllStoragePresentationContexts, _config, build_context, evt

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.lib.bench_sender import CLASSES, EXPLICIT


def forward(waiting: queue.Queue[Path], port: int, called: str) -> None:
    """Send what comes, for ever."""
    entity = AE(ae_title="STOCK")
    entity.requested_contexts = [build_context(one, EXPLICIT) for one in CLASSES.values()]
    association = None
    while True:
        path = waiting.get()
        if association is None or not association.is_established:
            association = entity.associate("127.0.0.1", port, ae_title=called)
        association.send_c_store(path)


def main() -> None:
    """Serve until SIGTERM."""
    port, folder, to, called = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    tempfile.tempdir = str(folder)
    _config.STORE_RECV_CHUNKED_DATASET = _config.STORE_SEND_CHUNKED_DATASET = True
    waiting: queue.Queue[Path] = queue.Queue()
    entity = AE(ae_title="RELAYPACS")
    entity.maximum_associations = 50
    entity.supported_contexts = AllStoragePresentationContexts

    def store(event: evt.Event) -> int:
        path = folder / f"{event.request.AffectedSOPInstanceUID}.dcm"
        os.rename(event.dataset_path, path)
        waiting.put(path)
        return 0x0000

    threading.Thread(target=forward, args=(waiting, to, called), daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    entity.start_server(("127.0.0.1", port), block=True, evt_handlers=[(evt.EVT_C_STORE, store)])


if __name__ == "__main__":
    main()
